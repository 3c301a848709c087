"""CourseCorrection on two processes."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from lightning_pareto import CourseCorrection
from tests.distributed._two import launched, read, two, write
from tests.integration._models import Plain, trainer
from tests.integration.correction._spoilt import SPOILT, Spoils, SpoiltData, spoilt_datasets

pytestmark = pytest.mark.distributed


class Ends(Callback):
    """Writes down how the fit ended on each process."""

    def __init__(self, folder, callback):
        self.folder, self.callback = folder, callback

    def on_train_end(self, trainer, pl_module):
        made = [
            [each.epoch, each.fallen, each.ordinary, each.again, each.accepted] for each in self.callback.corrections
        ]
        weights = [value.tolist() for value in pl_module.parameters()]
        write(self.folder, trainer, [made, weights, trainer.global_step, trainer.current_epoch])


class Wide(Plain):
    """Has no dropout, which would differ between processes."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 4))


def run(fitted, size=32):
    torch.manual_seed(0)
    fitted.fit(Wide(), datamodule=SpoiltData(share=0.7, batch_size=size))


def corrected(folder, strategy):
    """A fit on two processes in which a rerun is kept."""
    folder.mkdir(exist_ok=True)
    callback = CourseCorrection(verbose=False, max_corrections=1)
    run(two(folder, Spoils(), callback, Ends(folder, callback), strategy=strategy, max_epochs=5), size=16)
    return callback


@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forked")
    callback = corrected(folder, "ddp_fork")
    return callback.corrections, read(folder)


@pytest.mark.parametrize("least_gain", [0.0, 0.999])
def test_two_processes_decide_like_one(tmp_path, least_gain):
    """Two processes have other batches than one. A large threshold names the spoilt class only."""
    options = {"threshold": 0.3, "least_gain": least_gain, "max_corrections": 1, "verbose": False}
    alone = CourseCorrection(**options)
    run(trainer(tmp_path, Spoils(), alone, max_epochs=5))
    callback = CourseCorrection(**options)
    run(two(tmp_path, Spoils(), callback, Ends(tmp_path, callback), max_epochs=5), size=16)
    first, second = read(tmp_path)
    assert first == second, "the same decisions, accuracies and weights"
    (made,), _, steps, epochs = first
    assert (steps, epochs) == (19 * 5, 5)
    assert made[0] == SPOILT
    (done,) = callback.corrections  # read from disk by the process that started the others
    assert (done.epoch, done.fallen, done.accepted) == (made[0], tuple(made[1]), made[4])
    (expected,) = alone.corrections
    assert (done.epoch, done.fallen, done.accepted) == (expected.epoch, expected.fallen, expected.accepted)
    assert done.accepted is (least_gain == 0)


def test_rerun_that_is_not_kept_leaves_no_trace_on_two_processes(tmp_path):
    ends = []
    for folder, callback in ((tmp_path / "with", never_kept()), (tmp_path / "without", None)):
        folder.mkdir()
        callbacks = [] if callback is None else [callback]
        run(two(folder, Spoils(), *callbacks, Ends(folder, callback or never_kept()), max_epochs=5), size=16)
        ends.append(read(folder))
    assert ends[0][0][0], "a rerun was tried"
    assert [end[1:] for end in ends[0]] == [end[1:] for end in ends[1]]


def never_kept():
    return CourseCorrection(verbose=False, least_gain=0.999, max_corrections=1)


def test_padding_is_not_counted(tmp_path):
    """Of 399 validation samples on two processes, one is read twice."""

    class Odd(SpoiltData):
        def __init__(self):
            super().__init__(share=0.7, batch_size=16)
            x, y = spoilt_datasets()[1].tensors
            self.val = torch.utils.data.TensorDataset(x[:399], y[:399])

    callback = CourseCorrection(verbose=False, max_corrections=1)
    torch.manual_seed(0)
    two(tmp_path, Spoils(), callback, max_epochs=SPOILT + 1).fit(Wide(), datamodule=Odd())
    support = torch.bincount(spoilt_datasets()[1].tensors[1][:399]).tolist()
    for accuracy, size in zip(callback.corrections[0].ordinary, support, strict=True):
        assert accuracy * size == pytest.approx(round(accuracy * size), abs=1e-6)


def test_spawned_processes_decide_like_forked_ones(tmp_path, forked):
    """The parent's copy of the callback is empty and reads what the processes have written."""
    callback = corrected(tmp_path, "ddp_spawn")
    assert (callback.corrections, read(tmp_path)) == forked
    assert callback.corrections[0].accepted


SCRIPT = """
import sys
from pathlib import Path
from tests.distributed.test_correction import corrected

if __name__ == "__main__":
    (done,) = corrected(Path(sys.argv[1]), "ddp").corrections
    assert done.accepted, str(done)
"""


def test_launched_script_decides_like_forked_processes(tmp_path, forked):
    launched(tmp_path, SCRIPT)
    assert read(tmp_path) == forked[1]
