"""A process that is killed during the analysis soon ends the others, which would otherwise wait for ever."""

import os
import pickle
import signal
import time
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.multiprocessing import ProcessExitedException

from lightning_pareto import ParetoCallback, Shard, estimate_influence
from lightning_pareto.integration.analysis import run as analysis
from tests._asserts import assert_near
from tests._oracles import loader
from tests._tolerances import TWO_PROCESSES
from tests.distributed._two import launched, two
from tests.integration._models import Data, Plain
from tests.integration.analysis.test_resumption import with_progress

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed support"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork"),
    pytest.mark.timeout(250),
]

SOON = 60.0
"""Seconds within which the others must end. They need about one, or more on a busy machine."""


def striking(rank, folder, strike):
    """An estimate in which one process is ended in the scoring pass. It writes down the time before."""

    def progress(stage, done, _total):
        if stage == "scores" and done == 1 and dist.get_rank() == rank:
            (folder / "struck").write_text(str(time.time()))
            strike()

    return with_progress(progress)


def killing(rank, folder):
    return striking(rank, folder, lambda: os.kill(os.getpid(), signal.SIGKILL))


def since(folder):
    return time.time() - float((folder / "struck").read_text())


@pytest.mark.parametrize("rank", [0, 1])
def test_forked_processes_end_with_the_one_that_was_killed(tmp_path, monkeypatch, rank):
    monkeypatch.setattr(analysis, "estimating", killing(rank, tmp_path))
    with pytest.raises(ProcessExitedException, match=f"process {rank} terminated with signal SIGKILL"):
        two(tmp_path, ParetoCallback(verbose=False), max_epochs=1).fit(Plain(), datamodule=Data())
    assert since(tmp_path) < SOON


WAITS = 5.0
"""Seconds that the process group of the next test waits for a hanging process."""


class AnalysisReport(Callback):
    """Writes down the error of the analysis on the first process, then ends the process that hangs."""

    def __init__(self, folder, callback):
        self.folder, self.callback = folder, callback

    def on_train_end(self, trainer, pl_module):
        try:
            _ = self.callback.influence
        except RuntimeError as error:
            text = f"{since(self.folder)} {type(error.__cause__).__name__} {error.__cause__}"
            (self.folder / "report").write_text(text)
        finally:
            os.kill(int((self.folder / "stopped").read_text()), signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:ParetoCallback failed after the fit")
def test_hanging_process_ends_the_analysis_after_the_timeout_of_the_strategy(tmp_path, monkeypatch):
    def stop():
        (tmp_path / "stopped").write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)

    monkeypatch.setattr(analysis, "estimating", striking(1, tmp_path, stop))
    callback = ParetoCallback(verbose=False)
    strategy = DDPStrategy(timeout=timedelta(seconds=WAITS), start_method="fork")
    with pytest.raises(ProcessExitedException):
        two(tmp_path, callback, AnalysisReport(tmp_path, callback), strategy=strategy, max_epochs=1).fit(
            Plain(), datamodule=Data()
        )
    waited, report = (tmp_path / "report").read_text().split(" ", maxsplit=1)
    assert WAITS - 1 < float(waited) < WAITS + SOON
    assert report.startswith("LostProcessError during the scoring pass: another process did not answer within")


SCRIPT = """
import sys
from pathlib import Path
from lightning_pareto import ParetoCallback
from lightning_pareto.integration.analysis import run as analysis
from tests.faults.test_processes import killing
from tests.integration._models import Data, Plain, trainer

folder = Path(sys.argv[1])
analysis.estimating = killing(1, folder)
callback, model = ParetoCallback(verbose=False), Plain()
trainer(folder, callback, strategy="ddp", devices=2, max_epochs=1).fit(model, datamodule=Data())
try:
    callback.influence
except RuntimeError as error:
    print(type(error.__cause__).__name__, error.__cause__)
print("trained", model.network[0].weight.isfinite().all().item())
"""


def test_script_keeps_its_trained_model_if_the_other_process_is_killed(tmp_path):
    printed = launched(tmp_path, SCRIPT)
    assert "LostProcessError during the scoring pass: the connection to another process was lost" in printed
    assert "trained True" in printed
    assert since(tmp_path) < SOON


def estimate_of_three(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=3)
    scores = problem(Shard(rank, 3))
    (folder / f"rank{rank}").write_bytes(pickle.dumps(scores))
    dist.barrier()
    dist.destroy_process_group()


def problem(shard=None):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    data = loader(torch.randn(50, 4), torch.arange(50) % 3, batch_size=8)
    return estimate_influence(module, data, data, shard=shard, folds=3).scores


def test_three_processes_give_the_scores_of_one(tmp_path):
    mp.start_processes(estimate_of_three, (tmp_path,), nprocs=3, start_method="fork")
    found = [pickle.loads((tmp_path / f"rank{rank}").read_bytes()) for rank in range(3)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert_near(found[0], problem(), TWO_PROCESSES)
