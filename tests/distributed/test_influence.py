"""The estimate itself on two processes, without a trainer."""

import pickle
import platform

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from lightning_pareto import Shard, estimate_influence
from tests._asserts import assert_near
from tests._oracles import loader
from tests._tolerances import TWO_PROCESSES

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed support"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork"),
    pytest.mark.timeout(100),
]


class Branches(nn.Module):
    """Positive samples take one branch, all others the other."""

    def __init__(self):
        super().__init__()
        self.one, self.other, self.head = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x):
        way = (x[:, :1] > 0).to(x)
        z = torch.tanh(self.one(x)) * way if way.any() else 0
        return self.head(z + (torch.tanh(self.other(x)) * (1 - way) if not way.all() else 0))


class HungryOnRankOne(Branches):
    """Has no memory for batches of more than ten samples on process one."""

    def forward(self, x):
        if len(x) > 10 and dist.is_initialized() and dist.get_rank() == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


class InFloat64(Branches):
    """The same in float64."""

    def __init__(self):
        super().__init__()
        self.double()

    def forward(self, x):
        return super().forward(x.double())


def problem(module_class):
    torch.manual_seed(0)
    x = torch.randn(61, 3)
    x = x[x[:, 0].argsort()]  # each process uses only one of the branches
    return module_class(), loader(x, torch.arange(61) % 3, batch_size=16)


def work(rank, folder, module_class, options):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    module, data = problem(module_class)
    try:
        found = estimate_influence(module, data, data, shard=Shard(rank, 2), **options)
        result = found.scores, found.fold_scores, found.labels, found.metadata["parameters"]
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    (folder / f"rank{rank}").write_bytes(pickle.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


def on_two(folder, module_class, **options):
    folder.mkdir(exist_ok=True)
    mp.start_processes(work, (folder, module_class, options), nprocs=2, start_method="fork")
    return [pickle.loads((folder / f"rank{rank}").read_bytes()) for rank in range(2)]


def count(rank, folder):
    """Write how many of three processes run on the first one's machine. The third has another name."""
    platform.node = lambda: "second" if rank == 2 else "first"
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=3)
    (folder / f"rank{rank}").write_text(str(Shard(rank, 3).on_one_machine))
    dist.destroy_process_group()


def test_processes_of_a_machine_are_counted_alike_on_all(tmp_path):
    mp.start_processes(count, (tmp_path,), nprocs=3, start_method="fork")
    assert [(tmp_path / f"rank{rank}").read_text() for rank in range(3)] == ["2"] * 3


@pytest.mark.parametrize("curvature", ["identity", "ekfac", "cg"])
def test_layer_that_one_process_does_not_use(tmp_path, curvature):
    module, data = problem(Branches)
    alone = estimate_influence(module, data, data, curvature=curvature, folds=3, damping=1.0, tolerance=1e-5)
    for scores, fold_scores, labels, how in on_two(
        tmp_path, Branches, curvature=curvature, folds=3, damping=1.0, tolerance=1e-5
    ):
        assert_near(scores, alone.scores, TWO_PROCESSES)
        assert_near(fold_scores, alone.fold_scores, TWO_PROCESSES)
        assert labels.tolist() == alone.labels.tolist()
        assert how == alone.metadata["parameters"]


def test_float64_on_two_processes_equals_one(tmp_path):
    module, data = problem(InFloat64)
    alone = estimate_influence(module, data, data)
    for scores, *_ in on_two(tmp_path, InFloat64):
        assert_near(scores, alone.scores, TWO_PROCESSES)


def test_both_use_smaller_batches_if_one_lacks_memory(tmp_path):
    module, data = problem(Branches)
    alone = estimate_influence(module, data, data)
    for scores, *_ in on_two(tmp_path, HungryOnRankOne):
        assert_near(scores, alone.scores, TWO_PROCESSES)


def test_finished_stages_are_used_by_both(tmp_path):
    stages = tmp_path / "stages"
    expected = on_two(tmp_path / "whole", Branches)
    broken = on_two(tmp_path / "broken", Branches, stages_dir=stages, progress=Stops("scores"))
    assert all("process failed" in text or "stopped in scores" in text for text in broken)
    again = on_two(tmp_path / "again", Branches, stages_dir=stages, progress=Stops("factors"))
    for (scores, *_), (before, *_) in zip(again, expected, strict=True):
        assert_near(scores, before, TWO_PROCESSES)
    assert not stages.exists()


class Stops:
    """Fails in this stage on process one."""

    def __init__(self, stage):
        self.stage = stage

    def __call__(self, stage, done, _total):
        if stage == self.stage and done and dist.get_rank() == 1:
            raise RuntimeError(f"stopped in {stage}")
