"""Tests of how work is split over processes."""

import pytest
import torch

from lightning_pareto import Shard
from lightning_pareto.influence import sharding


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [7, 60, 61])
def test_every_index_goes_to_one_process_and_shares_are_equal(size, count):
    parts = [list(Shard(index, count).range(size)) for index in range(count)]
    assert [i for part in parts for i in part] == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    dealt = [Shard(index, count).deal(range(size)) for index in range(count)]
    assert sorted(i for part in dealt for i in part) == list(range(size))


def test_sum_does_not_change_its_input(monkeypatch):
    """Simulates another process with the same tensor."""
    monkeypatch.setattr(sharding.dist, "all_reduce", lambda tensor: tensor.mul_(2))
    mine = torch.arange(10.0).reshape(2, 5)
    assert torch.equal(Shard(0, 2).sum(mine, elements=3), 2 * torch.arange(10.0).reshape(2, 5))
    assert torch.equal(mine, torch.arange(10.0).reshape(2, 5))
