"""Systematic resampling: counts, means, replicas, epochs."""

import numpy as np
import pytest
import torch
from torch.utils.data import DistributedSampler

from lightning_pareto import ParetoSampler, SampleWeights
from lightning_pareto.sampling import systematic_draws


def counts(sampler, epoch=0, n=None):
    sampler.set_epoch(epoch)
    return np.bincount(list(sampler), minlength=n or len(sampler.weights))


def systematic_counts(weights, seed):
    return np.bincount(systematic_draws(weights, torch.Generator().manual_seed(seed)), minlength=len(weights))


@pytest.fixture
def weights():
    values = np.random.default_rng(0).uniform(0, 2, 501)
    return values * 501 / values.sum()


def test_unit_weights_give_an_ordinary_shuffled_epoch():
    sampler = ParetoSampler(np.ones(1000))
    assert isinstance(sampler, DistributedSampler)
    epochs = []
    for epoch in range(50):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
        assert sorted(epochs[-1]) == list(range(1000))
    assert len({tuple(epoch) for epoch in epochs}) == 50


def test_every_count_is_within_one_of_its_weight_and_sums_are_exact(weights):
    for epoch in range(200):
        found = counts(ParetoSampler(weights), epoch)
        assert np.abs(found - weights).max() < 1 + 1e-9
        assert found.sum() == 501


def test_the_mean_count_is_the_weight(weights):
    epochs = 4000
    total = sum(systematic_counts(weights, seed) for seed in range(epochs))
    fraction = weights % 1
    error = np.sqrt(fraction * (1 - fraction) / epochs)
    assert (np.abs(total / epochs - weights) <= 5 * error + 1e-6).all()


@pytest.mark.parametrize("few", [[0.9, 0.1], [1.2, 0.2]])
def test_the_mean_count_of_very_few_is_their_share(few):
    """Where chance has to come from u: two samples have two orders. Weights that sum to 1.4 are one draw."""
    drawn = sum(counts(ParetoSampler(few), epoch) for epoch in range(3000)) / 3000
    np.testing.assert_allclose(drawn, np.array(few) / sum(few), atol=0.03)


def test_neighbours_are_not_tied():
    """With weights of one half and no random order, exactly one of every two neighbours would be drawn."""
    drawn = np.array([systematic_counts(np.full(40, 0.5), s) for s in range(2000)])
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.1


@pytest.mark.parametrize("replicas", [1, 2, 3, 7])
@pytest.mark.parametrize("drop_last", [False, True])
def test_replicas_share_one_epoch(weights, replicas, drop_last):
    samplers = [
        ParetoSampler(weights, num_replicas=replicas, rank=rank, drop_last=drop_last) for rank in range(replicas)
    ]
    parts = [list(sampler) for sampler in samplers]
    assert {len(part) for part in parts} == {len(samplers[0])}
    whole = list(ParetoSampler(weights, num_replicas=1, rank=0))
    dealt = [i for row in zip(*parts, strict=True) for i in row]
    if drop_last:
        assert dealt == whole[: len(whole) // replicas * replicas]
    else:
        assert dealt[: len(whole)] == whole
        assert len(dealt) - len(whole) < replicas


def test_epochs_and_seeds_differ_and_repeat(weights):
    first = ParetoSampler(weights, seed=3)
    draws = [list(first)]
    first.set_epoch(1)
    draws.append(list(first))
    draws.append(list(ParetoSampler(weights, seed=4)))
    assert len({tuple(draw) for draw in draws}) == 3
    assert list(ParetoSampler(weights, seed=3)) == draws[0]


@pytest.mark.parametrize("rank", [0, 1])
def test_an_interrupted_epoch_goes_on_once(weights, rank):
    sampler = ParetoSampler(weights, num_replicas=2, rank=rank)
    whole = list(sampler)
    sampler.skip(96)
    assert len(sampler) == len(whole)
    assert list(sampler) == whole[96:]
    assert list(sampler) == whole


def test_the_draws_are_shuffled_again():
    """A sample drawn several times is not drawn in a row."""
    drawn = np.array(list(ParetoSampler(np.full(1000, 3.0))))
    assert 0 < (drawn[1:] == drawn[:-1]).sum() < 20, "two thirds of 3,000 without the second shuffle"


def test_an_epoch_has_as_many_draws_as_the_weights_sum_to():
    assert len(ParetoSampler(np.full(10, 2.0))) == 20
    assert len(ParetoSampler(np.full(10, 0.01))) == 1
    assert counts(ParetoSampler([0.0, 1.0, 2.0])).tolist() == [0, 1, 2]


def test_rounding_never_moves_a_whole_weight():
    """0.1 + 0.2 + … is not exact, yet nine tenths and one tenth make one."""
    for seed in range(500):
        found = systematic_counts(np.tile([0.1] * 10, 20), seed)
        assert found.sum() == 20
        assert systematic_counts(np.ones(200), seed).tolist() == [1] * 200


@pytest.mark.parametrize("u", [0.0, 1 - 2.0**-53])
def test_rounding_moves_nothing_at_either_end_of_u(u, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(u, dtype=torch.float64))
    for seed in range(50):
        found = systematic_counts(np.append(np.full(200, 0.1), np.ones(50)), seed)
        assert found[200:].tolist() == [1] * 50
        assert found.sum() == 70
    total = 395_889
    assert len(systematic_draws(np.full(400_000, total / 400_000), torch.Generator())) == total, "its sum is too small"


def test_takes_weights_and_refuses_bad_ones():
    assert list(ParetoSampler(SampleWeights([0.0, 1.0]))) == [1]
    with pytest.raises(ValueError, match="finite and ≥ 0"):
        ParetoSampler([1.0, -1.0])
    with pytest.raises(ValueError, match="Invalid rank"):
        ParetoSampler([1.0], num_replicas=2, rank=2)
