"""Tests of memory limits, and of what happens when memory runs out."""

import pytest
import torch
from torch import nn

from lightning_pareto import estimate_influence
from lightning_pareto.influence.memory import Memory, is_out_of_memory
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
    tight = 16 * 15 * 5 / 2**30  # five of the twelve directions of 15 numbers at a time
    found = estimate_influence(
        module, data, data, folds=4, max_memory=tight, progress=lambda stage, done, _: done or stages.append(stage)
    )
    assert stages.count("scores") == stages.count("category gradients") == 3
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


def test_halving_terminates():
    memory, steps = Memory(), 0
    while memory.halve(batch=64):
        steps += 1
    assert memory.batch == 1
    assert steps < 30
