"""An error on one process ends the work on both, and each says why."""

import warnings

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.multiprocessing import ProcessRaisedException
from torch.utils.data import random_split

from lightning_pareto import ClassificationTask, ParetoCallback, estimate_influence
from tests._asserts import assert_near
from tests._tolerances import TWO_PROCESSES
from tests.distributed._two import AnalysisReport, ReportsFailedStart, read, two
from tests.integration._models import Data, Over, Plain

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed support"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork"),
    pytest.mark.timeout(100),  # these tests look for processes that wait for ever
]


def on_rank_one():
    return dist.is_initialized() and dist.get_rank() == 1


@pytest.mark.filterwarnings("ignore:ParetoCallback failed after the fit")
def test_error_on_one_process_ends_the_analysis_on_both(tmp_path):
    over = Over()

    def loss_that_fails_on_one_rank(logits, targets):
        loss = ClassificationTask().loss(logits, targets)
        return loss * torch.nan if over and on_rank_one() else loss

    callback = ParetoCallback(task=ClassificationTask(loss=loss_that_fails_on_one_rank))
    report = AnalysisReport(tmp_path, callback)
    fitted = two(tmp_path, over, callback, report, max_epochs=1)
    fitted.fit(Plain(), datamodule=Data())
    assert fitted.state.finished
    zero, one = read(tmp_path)
    assert zero.startswith("OtherProcessError: another process failed during the comparison with autograd")
    assert "not finite" in one
    with pytest.raises(RuntimeError, match="there is no result"):
        _ = callback.influence


class OnRankOne(Callback):
    """Does something on process one only, at the end of the training and before the analysis."""

    def __init__(self, what):
        self.what = what

    def on_train_end(self, trainer, pl_module):
        if on_rank_one():
            self.what(pl_module)


@pytest.mark.filterwarnings("ignore:ParetoCallback failed after the fit")
def test_error_before_the_first_pass_ends_the_analysis_on_both(tmp_path):
    callback = ParetoCallback()
    report = AnalysisReport(tmp_path, callback)
    freeze = OnRankOne(lambda module: module.requires_grad_(False))
    two(tmp_path, freeze, callback, report, max_epochs=1).fit(Plain(), datamodule=Data())
    zero, one = read(tmp_path)
    assert zero.startswith("OtherProcessError: another process failed during the preparation of the analysis")
    assert one.startswith("ValueError: ")
    assert "no trainable parameter" in one


def targets_that_fail_on_one_rank(batch):
    if on_rank_one():
        raise OSError("disk is away")
    return batch[1]


def test_error_before_the_fit_ends_it_on_both(tmp_path):
    callback = ReportsFailedStart(tmp_path, task=ClassificationTask(targets=targets_that_fail_on_one_rank))
    fitted = two(tmp_path, callback, num_sanity_val_steps=0, max_epochs=1)
    with pytest.raises(ProcessRaisedException):
        fitted.fit(Plain(), datamodule=Data())
    zero, one = read(tmp_path)
    assert zero.startswith("OtherProcessError: another process failed during the check before the fit")
    assert one == "OSError: disk is away"


class Ageing(Plain):
    def on_validation_epoch_end(self):
        self.log("age", float(self.current_epoch), sync_dist=True)


class NoteWarnings(Callback):
    """Writes the warnings of each process to a file."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        path = self.folder / f"warnings{trainer.global_rank}"
        path.touch()

        def show(message, *_):
            with path.open("a") as file:
                file.write(f"{message}\n")

        warnings.showwarning = show  # in a forked process, which ends with the fit

    def count(self, text):
        return [(self.folder / f"warnings{rank}").read_text().count(text) for rank in range(2)]


@pytest.mark.filterwarnings("always:the checkpoint")
def test_checkpoint_that_one_process_cannot_read_is_used_by_none(tmp_path):
    """As on machines that do not share a disk."""

    def hide(_module):
        def load(*_args, **_options):
            raise FileNotFoundError("not on this machine")

        torch.load = load

    best = ModelCheckpoint(tmp_path / "best", monitor="age", mode="min")
    callback, model, data, noted = ParetoCallback(verbose=False), Ageing(), Data(), NoteWarnings(tmp_path)
    report = AnalysisReport(tmp_path, callback)
    two(tmp_path, OnRankOne(hide), noted, callback, report, best, enable_checkpointing=True).fit(model, datamodule=data)
    assert read(tmp_path) == ["last weights", "last weights"]
    assert noted.count("cannot be loaded (another process could not read it)") == [1, 0]
    expected = estimate_influence(model, data.train_dataloader(), data.val_dataloader())
    assert_near(callback.influence.scores, expected.scores, TWO_PROCESSES)


class AgeingApart(Plain):
    """Monitors a different value on each process, so their best epochs differ."""

    def on_validation_epoch_end(self):
        sign = -1 if on_rank_one() else 1
        self.log("age", sign * float(self.current_epoch), sync_dist=False)


@pytest.mark.filterwarnings("ignore:It is recommended to use .* sync_dist=True")
def test_all_processes_use_the_checkpoint_of_rank_zero(tmp_path):
    best = ModelCheckpoint(tmp_path / "best", monitor="age", mode="min", save_top_k=-1, filename="{epoch}")
    callback = ParetoCallback(verbose=False)
    report = AnalysisReport(tmp_path, callback)
    two(tmp_path, callback, report, best, enable_checkpointing=True).fit(AgeingApart(), datamodule=Data())
    assert read(tmp_path) == ["epoch=0.ckpt", "epoch=0.ckpt"]


class SplitAtRandom(Data):
    """Splits its data at random on every process."""

    def setup(self, stage):
        torch.manual_seed(dist.get_rank())
        self.train, self.val = random_split(self.train, [180, 60])


def test_processes_with_other_samples_are_refused_before_the_first_step(tmp_path):
    callback = ReportsFailedStart(tmp_path)
    with pytest.raises(ProcessRaisedException):
        two(tmp_path, callback, max_epochs=1).fit(Plain(), datamodule=SplitAtRandom())
    zero, one = read(tmp_path)
    assert zero.startswith("OtherProcessError: another process failed during the comparison of the data")
    assert one.startswith("ValueError: process 1 reads other samples than process 0")
