"""Fits on two processes give the results of one."""

import copy
import json
import pickle

import lightning.pytorch as pl
import numpy as np
import pytest
import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_pareto import (
    InfluenceMatrix,
    ParetoCallback,
    ParetoVerdict,
    ReweightedDataModule,
    SamplePreviews,
    estimate_influence,
)
from tests._asserts import assert_near
from tests._tolerances import TWO_PROCESSES
from tests.distributed._two import launched, two, untrained
from tests.integration._models import Data, Plain, datasets, trainer

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed support"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork"),
]


def single_process():
    data = Data()
    return estimate_influence(untrained(), data.train_dataloader(), data.val_dataloader())


@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_spawn"])
def test_influence_equals_that_of_one_process_and_reaches_the_parent(tmp_path, strategy):
    callback = ParetoCallback(verbose=False)
    two(tmp_path, callback, strategy=strategy, max_epochs=1).fit(untrained(), datamodule=Data())
    expected = single_process()
    assert_near(callback.influence.scores, expected.scores, TWO_PROCESSES)
    assert_near(callback.influence.fold_scores, expected.fold_scores, TWO_PROCESSES)
    np.testing.assert_array_equal(callback.influence.labels, expected.labels)
    np.testing.assert_array_equal(callback.influence.support, expected.support)
    assert 0 <= callback.verdict.p_value <= 1


def test_odd_numbers_of_samples_are_not_padded(tmp_path):
    train, val = datasets(train=101, val=61)
    callback = ParetoCallback(verbose=False)
    two(tmp_path, callback, max_epochs=1).fit(untrained(), datamodule=Data(train, val))
    data = Data(train, val)
    expected = estimate_influence(untrained(), data.train_dataloader(), data.val_dataloader())
    assert_near(callback.influence.scores, expected.scores, TWO_PROCESSES)
    assert callback.influence.support.sum() == 61, "without the padding of the sampler"


class NoteDraws(pl.Callback):
    """Writes down the inputs that this process trains on."""

    def __init__(self, folder):
        self.folder = folder
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen += batch[0].tolist()

    def on_train_end(self, trainer, pl_module):
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(self.seen))


def test_second_fit_shares_one_weighted_epoch(tmp_path):
    weights = np.random.default_rng(0).uniform(0, 2, 240)
    weights *= 240 / weights.sum()
    model = Plain()
    two(tmp_path, NoteDraws(tmp_path), max_epochs=1).fit(model, datamodule=ReweightedDataModule(Data(), weights))
    rows = {tuple(row): i for i, row in enumerate(datasets()[0].tensors[0].tolist())}
    draws = [[rows[tuple(x)] for x in json.loads((tmp_path / f"rank{r}.json").read_text())] for r in range(2)]
    assert [len(part) for part in draws] == [120, 120]
    assert np.abs(np.bincount(draws[0] + draws[1], minlength=240) - weights).max() < 1 + 1e-9


def test_results_of_other_processes_replace_older_ones(tmp_path):
    callback = ParetoCallback(verbose=False)
    trainer(tmp_path, callback, max_epochs=1).fit(Plain(), datamodule=Data())
    assert callback.influence.scores.shape == (240, 4)
    train, val = datasets(train=101)
    two(tmp_path, callback, max_epochs=1).fit(Plain(), datamodule=Data(train, val))
    assert callback.influence.scores.shape == (101, 4)
    assert len(callback.verdict.regions.sign) == 101
    trainer(tmp_path, callback, max_epochs=1).fit(Plain(), datamodule=Data())
    assert callback.influence.scores.shape == (240, 4)
    two(tmp_path, callback, limit_train_batches=0).fit(Plain(), datamodule=Data())
    with pytest.raises(RuntimeError, match="there is no result"):
        _ = callback.influence


@pytest.mark.filterwarnings("ignore:the verdict could not be written")
def test_missing_verdict_is_reported_with_its_folder(tmp_path, monkeypatch):
    def fail(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ParetoVerdict, "save", fail)
    pareto = ParetoCallback(verbose=False)
    two(tmp_path, pareto, max_epochs=1).fit(Plain(), datamodule=Data())
    assert pareto.influence.scores.shape == (240, 4)
    with pytest.raises(RuntimeError, match=rf"no verdict\.safetensors in {tmp_path / 'pareto'}, where the last fit"):
        _ = pareto.verdict


def test_copied_callback_gets_its_results(tmp_path):
    """``deepcopy`` and pickle copy shared memory into private memory."""
    for twin in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        callback = twin(ParetoCallback(verbose=False))
        two(tmp_path, callback, max_epochs=1).fit(Plain(), datamodule=Data())
        assert callback.influence.scores.shape == (240, 4)


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from lightning_pareto import ParetoCallback, ReweightedDataModule, reweight
from tests.distributed._two import two, untrained
from tests.integration._models import Data, Plain

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    callback = ParetoCallback(dirpath=folder / "pareto", verbose=False)
    two(folder, callback, strategy="ddp", max_epochs=1).fit(untrained(), datamodule=Data())
    again = two(folder, ParetoCallback(analyse=False), strategy="ddp", max_epochs=2)
    again.fit(Plain(), datamodule=ReweightedDataModule(Data(), reweight(callback.influence)))
    if again.is_global_zero:
        (folder / "accuracy").write_text(str(float(again.callback_metrics["val_accuracy_macro"])))
"""


def test_launched_script_runs_the_whole_job(tmp_path):
    launched(tmp_path, SCRIPT)
    assert_near(
        InfluenceMatrix.load(tmp_path / "pareto" / "influence.safetensors").scores,
        single_process().scores,
        TWO_PROCESSES,
    )
    assert float((tmp_path / "accuracy").read_text()) > 0.4


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_finished_fit_that_is_called_again_is_analysed(tmp_path):
    """Lightning has torn the strategy down by then, but the processes are still connected."""
    keeper = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    two(tmp_path, ParetoCallback(analyse=False), keeper, max_epochs=1, enable_checkpointing=True).fit(
        untrained(), datamodule=Data()
    )
    callback = ParetoCallback(verbose=False, dirpath=tmp_path / "pareto")
    again = two(tmp_path, callback, copy.deepcopy(keeper), max_epochs=1, enable_checkpointing=True)
    again.fit(untrained(), datamodule=Data(), ckpt_path=str(tmp_path / "last.ckpt"))
    assert_near(callback.influence.scores, single_process().scores, TWO_PROCESSES)
    assert not (tmp_path / "pareto" / "stages").exists()


def test_previews_are_written_once(tmp_path):
    callback = ParetoCallback(verbose=False, preview=lambda item: f"label {item[1]}")
    two(tmp_path, callback, max_epochs=1).fit(Plain(), datamodule=Data())
    labels = datasets()[0].tensors[1]
    found = SamplePreviews.load(tmp_path / "pareto" / "samples.safetensors").of
    assert found
    assert all(preview == f"label {labels[index]}" for index, preview in found.items())
