"""Tests of memory limits, and of what happens when memory runs out."""

import math

import pytest
import torch
from torch import nn

from lightning_pareto import estimate_influence
from lightning_pareto.influence import memory
from lightning_pareto.influence.memory import Memory, free_memory, is_out_of_memory
from lightning_pareto.influence.scoring import COPIES
from tests._asserts import assert_near
from tests._oracles import loader
from tests._tolerances import RELATIVE


class Hungry(nn.Module):
    """Runs out of memory on batches above a size that may change between calls."""

    def __init__(self, largest):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.largest = largest
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.largest:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return self.layer(x)


@pytest.fixture
def data():
    torch.manual_seed(0)
    return loader(torch.randn(60, 4), torch.arange(60) % 3, batch_size=30)


def test_halves_the_batch_until_it_fits(data):
    torch.manual_seed(0)
    module = Hungry(20)
    found = estimate_influence(module, data, data)
    assert {30, 15} <= set(module.seen)
    assert module.seen.count(30) == 1, "a batch size that did not fit must not be tried again"
    module.largest = 100
    assert_near(found.scores, estimate_influence(module, data, data).scores, 10 * RELATIVE[torch.float32])


def test_raises_when_no_batch_size_fits(data):
    module = Hungry(3)  # enough for the comparison with autograd
    sizes = iter([3, 3, 3, *[0] * 100])
    module.register_forward_pre_hook(lambda m, _: setattr(m, "largest", next(sizes)))
    with pytest.raises(torch.OutOfMemoryError):
        estimate_influence(module, data, data)


def test_does_not_retry_after_other_errors(data):
    module = Hungry(100)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        estimate_influence(module, data, loader(torch.randn(6, 5), torch.arange(6) % 3))


def test_same_scores_with_directions_in_blocks(data):
    module, stages = nn.Linear(4, 3), []
    whole = estimate_influence(module, data, data, folds=4)
    tight = 2 * 4 * COPIES * 15 * 2 / 2**30  # two of the twelve directions of 15 numbers at a time, six in a block
    found = estimate_influence(
        module, data, data, folds=4, max_memory=tight, progress=lambda stage, done, _: done or stages.append(stage)
    )
    assert (stages.count("category gradients"), stages.count("scores")) == (6, 2)
    assert_near(found.scores, whole.scores, RELATIVE[torch.float32])
    assert_near(found.fold_scores, whole.fold_scores, RELATIVE[torch.float32])


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
    ids=repr,
)
def test_recognises_out_of_memory_errors(error, answer):
    assert is_out_of_memory(error) is answer


GIB = 2**30


def control_group(limit, used, cache, folder=""):
    """Files of a control group of version 2; sizes in GiB."""
    limit = limit if limit == "max" else limit * GIB
    values = {"memory.max": limit, "memory.current": used * GIB, "memory.stat": f"anon 0\ninactive_file {cache * GIB}"}
    return {folder + name: str(value) for name, value in values.items()}


VERSION_1 = {
    "memory/memory.limit_in_bytes": f"{3 * GIB}",
    "memory/memory.usage_in_bytes": f"{2 * GIB}",
    "memory/memory.stat": f"inactive_file 0\ntotal_inactive_file {GIB}",
}


@pytest.mark.parametrize(
    ("own", "files", "free"),
    [
        ("0::/", {}, 8),
        ("0::/", control_group(3, 2, 1), 2),
        ("0::/", control_group("max", 2, 1), 8),
        ("0::/", control_group(99, 2, 1), 8),
        ("0::/", control_group(1, 2, 0), 0),
        ("0::/job/step", control_group(3, 2, 1, "job/") | control_group("max", 2, 1, "job/step/"), 2),
        ("1:cpu:/\n4:memory:/elsewhere", VERSION_1, 2),
    ],
    ids=["none", "container", "no limit", "more than there is", "exceeded", "batch system", "version 1"],
)
def test_free_memory_observes_the_limits_of_control_groups(own, files, free, tmp_path, monkeypatch):
    meminfo = f"MemTotal: 1 kB\nMemAvailable: {8 * 2**20} kB"
    for name, text in {"self/cgroup": own, "meminfo": meminfo, **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(memory, "PROC", tmp_path)
    monkeypatch.setattr(memory, "CONTROL_GROUPS", tmp_path)
    assert free_memory(torch.device("cpu")) == free * GIB


def test_free_memory_is_infinite_where_it_is_not_known(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "PROC", tmp_path)
    assert free_memory(torch.device("cpu")) == math.inf


def test_halving_terminates():
    limits, steps = Memory(), 0
    while limits.halve(batch=64):
        steps += 1
    assert limits.batch == 1
    assert steps < 30
