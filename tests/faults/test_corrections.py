"""Fits that are ended during a correction resume from the last checkpoint with the same numbers."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, OnExceptionCheckpoint
from torch import nn

from lightning_pareto import CourseCorrection, ParetoCallback, ReweightedDataModule, SampleWeights
from lightning_pareto.influence.sharding import LostProcessError
from lightning_pareto.integration.correction import weights as module_of_weights
from lightning_pareto.integration.correction.epoch_rerun import EpochRerun
from lightning_pareto.integration.correction.record import Correction, Record
from lightning_pareto.integration.correction.weights import CorrectiveWeights
from lightning_pareto.storage.artifacts import ArtifactError
from tests.faults._struck import before, ended, strike, striking
from tests.integration._models import CLASSES, Plain, trainer
from tests.integration.correction._spoilt import SPOILT, Spoils, SpoiltData

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:.*called without a model. The last model of the previous"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]
STEPS = 19
"""Training steps of an epoch."""


class Plainer(Plain):
    """Without dropout, so a resumed fit needs no random state."""

    def __init__(self, lr=0.05):
        super().__init__(lr)
        self.network = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, CLASSES))


class Strikes(Callback):
    """Ends the process in the training or the validation of the rerun, in a fit that begins with the spoilt epoch."""

    def __init__(self, where, how):
        self.where, self.how = where, how
        self.steps = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.steps += 1
        if self.where == "rerun" and self.steps == STEPS + 5:
            strike(self.how)

    def on_validation_batch_end(self, *_arguments, **_options):
        if self.where == "its validation" and self.steps == 2 * STEPS:
            strike(self.how)


def fit(folder, *callbacks, ckpt_path=None, max_epochs=SPOILT + 2, **options):
    """A fit in which a rerun is kept. The number of the epoch determines the order of its samples."""
    torch.manual_seed(0)
    options = {"dirpath": folder / "pareto", "budget": 0.3, "max_corrections": 1, "verbose": False, **options}
    model, watch = Plainer(), CourseCorrection(**options)
    keeper = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    fitted = trainer(folder, Spoils(), keeper, watch, *callbacks, max_epochs=max_epochs, enable_checkpointing=True)
    data = ReweightedDataModule(SpoiltData(share=0.7), np.ones(600))
    fitted.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return watch.corrections, weights_of(model.state_dict())


def weights_of(state):
    return torch.cat([value.detach().flatten() for value in state.values()])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    corrections, weights = fit(folder)
    assert corrections[0].accepted
    return corrections, weights, folder / f"epoch={SPOILT - 1}.ckpt"


POINTS = {
    "influence": lambda how: setattr(
        module_of_weights, "influence_of", before(module_of_weights.influence_of, striking(how))
    ),
    "linear program": lambda how: setattr(CorrectiveWeights, "solve", before(CorrectiveWeights.solve, striking(how))),
    "rerun": None,
    "its validation": None,
    "decision": lambda how: setattr(EpochRerun, "replay_validation", striking(how)),
    "writing of the weights": lambda how: setattr(os, "fsync", striking(how)),
    "renaming of the weights": lambda how: setattr(Path, "replace", striking(how)),
    "writing of the record": lambda how: setattr(os, "fsync", striking(how, count=2)),
    "renaming of the record": lambda how: setattr(Path, "replace", before(Path.replace, striking(how, count=2))),
}


@pytest.mark.parametrize(
    ("point", "how"),
    [
        *((point, "killed") for point in POINTS),
        *((point, how) for point in ("influence", "rerun") for how in ("terminated", "interrupted")),
    ],
)
def test_fit_resumes(tmp_path, undisturbed, point, how):
    expected, expected_weights, given = undisturbed
    last = Path(shutil.copy2(given, tmp_path))

    def job():
        if POINTS[point] is not None:
            POINTS[point](how)
        try:
            fit(tmp_path, Strikes(point, how), ckpt_path=last)
        except Exception:
            (tmp_path / "failed otherwise").touch()
            raise

    assert not ended(job)
    assert not (tmp_path / "failed otherwise").exists()
    assert list(tmp_path.glob("*.ckpt")) == [last]
    assert last.read_bytes() == given.read_bytes()
    for path in (tmp_path / "pareto").glob("[!.]*.safetensors"):
        SampleWeights.load(path)
    corrections, weights = fit(tmp_path, ckpt_path=last)
    assert corrections == expected
    assert torch.equal(weights, expected_weights)
    names = {path.name for path in (tmp_path / "pareto").iterdir() if not path.name.startswith(".correction_")}
    assert names == {f"correction_{SPOILT}.safetensors", "corrections.json"}


class Breaks(Strikes):
    """Raises an error in the rerun, and notes the weights at the end of the ordinary epoch."""

    ordinary = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.steps += 1
        if self.steps == STEPS + 5:
            raise RuntimeError("broken")

    def on_validation_end(self, trainer, pl_module):
        self.ordinary = weights_of(pl_module.state_dict())


def test_checkpoint_saved_on_an_error_is_of_the_ordinary_epoch(tmp_path, undisturbed):
    breaks = Breaks("", "")
    with pytest.raises(RuntimeError, match="broken"):
        fit(tmp_path, OnExceptionCheckpoint(tmp_path, "stopped"), breaks, ckpt_path=undisturbed[2])
    saved = torch.load(tmp_path / "stopped.ckpt", weights_only=True)
    assert torch.equal(weights_of(saved["state_dict"]), breaks.ordinary)
    assert saved["global_step"] == STEPS * (SPOILT + 1)
    never_kept, expected = fit(tmp_path / "ordinary", least_gain=0.999, ckpt_path=undisturbed[2])
    corrections, weights = fit(tmp_path, ckpt_path=tmp_path / "stopped.ckpt")
    assert corrections == ()
    assert not never_kept[0].accepted
    assert torch.equal(weights, expected), "as after a rerun that was not kept"


def test_lost_process_ends_the_fit_with_its_error(tmp_path, undisturbed, monkeypatch):
    def lose(*_arguments, **_options):
        raise LostProcessError("during the scoring pass: gone")

    monkeypatch.setattr(module_of_weights, "influence_of", lose)
    with pytest.raises(LostProcessError, match="during the scoring pass"):
        fit(tmp_path, ckpt_path=undisturbed[2])


def test_record_on_disk_is_that_of_the_fit(tmp_path, undisturbed):
    """It has the corrections from before a resumption, and none of another fit in the same folder."""
    fit(tmp_path, ckpt_path=undisturbed[2])
    path = tmp_path / "pareto" / "corrections.json"
    text = path.read_text()
    path.unlink()
    corrections, _ = fit(tmp_path, ckpt_path=tmp_path / f"epoch={SPOILT}.ckpt")
    assert corrections == undisturbed[0]
    assert path.read_text() == text
    assert fit(tmp_path, ckpt_path=tmp_path / f"epoch={SPOILT + 1}.ckpt")[0] == corrections, "nothing left to train"
    path.with_name("correction_x.safetensors").touch()
    with pytest.raises(RuntimeError, match="broken"):
        fit(tmp_path, Breaks("", ""), max_epochs=2)
    assert path.read_text() == text, "a fit that has neither corrected nor ended replaces nothing"
    assert fit(tmp_path, max_epochs=1)[0] == ()
    assert path.read_text() == "[]"
    left = {each.name for each in path.parent.iterdir()}
    assert left == {path.name, "correction_x.safetensors"}, "weights of the other fit are removed, and nothing else"


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("pareto*/*")}


@pytest.mark.parametrize("max_epochs", [SPOILT, SPOILT + 1], ids=["no correction", "another correction"])
def test_fit_from_an_earlier_checkpoint_keeps_the_record_of_the_finished_one(
    tmp_path, undisturbed, monkeypatch, max_epochs
):
    """In default folders, without a logger."""
    fit(tmp_path, dirpath=None)
    before = files(tmp_path)
    assert set(before) == {f"pareto/correction_{SPOILT}.safetensors", "pareto/corrections.json"}
    early = tmp_path / f"epoch={SPOILT - 2}.ckpt"
    corrections, _ = fit(tmp_path, dirpath=None, budget=0.2, ckpt_path=early, max_epochs=max_epochs)
    after = files(tmp_path)
    assert {name: after[name] for name in before} == before
    own = {} if max_epochs == SPOILT else {f"pareto_1/{Path(name).name}" for name in before}
    assert set(after) - set(before) == set(own)
    assert len(corrections) == (max_epochs > SPOILT)


def test_resumed_fit_continues_the_record_of_its_checkpoint(tmp_path):
    fit(tmp_path, dirpath=None)
    before = files(tmp_path)
    for epoch in (SPOILT, SPOILT + 1):
        ckpt_path = tmp_path / f"epoch={epoch}.ckpt"
        corrections, _ = fit(tmp_path, dirpath=None, ckpt_path=ckpt_path, max_epochs=SPOILT + 2)
        assert len(corrections) == 1
        assert files(tmp_path) == before
    (tmp_path / "pareto" / "corrections.json").unlink()
    (tmp_path / "pareto" / "influence.safetensors").touch()
    fit(tmp_path, dirpath=None, ckpt_path=tmp_path / f"epoch={SPOILT}.ckpt")
    assert (tmp_path / "pareto_1" / "corrections.json").exists(), (
        "the other folder belongs to a fit without corrections"
    )


def test_record_with_categories_without_samples_is_recognised(tmp_path):
    def record(*epochs):
        found = Record()
        found.replace([Correction(e, ("a",), ("a", "b"), (1.0, np.nan), (0.5, np.nan), (), True) for e in epochs])
        return found

    record(3, 5).save(tmp_path)
    assert record(3, 5).continues(tmp_path)
    assert record(3, 5, 6).continues(tmp_path)
    assert not record(3).continues(tmp_path)
    assert not record(3, 6).continues(tmp_path)
    assert not record(3).continues(tmp_path / "nowhere")
    (tmp_path / "corrections.json").write_text("[")
    assert not record(3).continues(tmp_path)


def test_analysis_and_corrections_of_one_fit_share_a_folder(tmp_path):
    """Also if the analysis runs after a skipped fit. Results of other fits do not join them."""
    fit(tmp_path, ParetoCallback(verbose=False), dirpath=None)
    results = {f"{name}.safetensors" for name in ("influence", "outcome", "step", "verdict")}
    names = {f"correction_{SPOILT}.safetensors", "corrections.json"} | results
    assert set(files(tmp_path)) == {f"pareto/{name}" for name in names}
    for again in (1, 2):
        (tmp_path / "pareto" / "verdict.safetensors").unlink()
        if again == 1:
            (tmp_path / "pareto" / "influence.safetensors").unlink()
        fit(tmp_path, ParetoCallback(verbose=False), dirpath=None, ckpt_path=tmp_path / f"epoch={SPOILT + 1}.ckpt")
        assert set(files(tmp_path)) == {f"pareto/{name}" for name in names}
    (tmp_path / "pareto" / "verdict.safetensors").unlink()
    alone = trainer(tmp_path, ParetoCallback(verbose=False), max_epochs=SPOILT + 3)
    alone.fit(Plainer(), datamodule=SpoiltData(share=0.7), ckpt_path=tmp_path / f"epoch={SPOILT + 1}.ckpt")
    assert set(files(tmp_path)) - {f"pareto/{name}" for name in names} == {f"pareto_1/{name}" for name in results}


@pytest.mark.filterwarnings("ignore:CourseCorrection found no weights")
def test_fit_that_cannot_correct_does_not_try_again_when_resumed(tmp_path, undisturbed, monkeypatch):
    asked = []

    def fail(*_arguments, **_options):
        asked.append(1)
        raise RuntimeError("no influence today")

    monkeypatch.setattr(module_of_weights, "influence_of", fail)
    fit(tmp_path, ckpt_path=undisturbed[2], max_epochs=SPOILT + 1)
    assert len(asked) == 1
    given_up = tmp_path / f"epoch={SPOILT}.ckpt"
    again = {"max_epochs": SPOILT + 3, "max_corrections": 3}
    fit(tmp_path, Spoils(SPOILT + 2), ckpt_path=given_up, **again)
    assert len(asked) == 1
    saved = torch.load(given_up, weights_only=True)
    for state in saved["callbacks"].values():
        if "able" in state:
            state["able"] = True
    torch.save(saved, tmp_path / "able.ckpt")
    fit(tmp_path, Spoils(SPOILT + 2), ckpt_path=tmp_path / "able.ckpt", **again)
    assert len(asked) == 2, "the same fit would have tried otherwise"


def test_damaged_record_is_refused(tmp_path):
    watch = CourseCorrection(dirpath=tmp_path)
    watch._record.replace([Correction(3, ("a",), ("a",), (1.0,), (0.5,), (1.0,), True)])
    watch._record.save(tmp_path)
    watch._record.begin_fit(first=True)
    watch._record._message.put(str(tmp_path))
    assert len(watch.corrections) == 1
    path = tmp_path / "corrections.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ArtifactError, match="Compute it again"):
        _ = watch.corrections
