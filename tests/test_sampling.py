"""ParetoSampler: counts, their means, replicas and epochs."""

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


def test_counts_are_within_one_of_the_weights_and_sum_exactly(weights):
    for epoch in range(200):
        found = counts(ParetoSampler(weights), epoch)
        assert np.abs(found - weights).max() < 1 + 1e-9
        assert found.sum() == 501


def test_mean_counts_are_the_weights(weights):
    epochs = 4000
    total = sum(systematic_counts(weights, seed) for seed in range(epochs))
    fraction = weights % 1
    error = np.sqrt(fraction * (1 - fraction) / epochs)
    assert (np.abs(total / epochs - weights) <= 5 * error + 1e-6).all()


@pytest.mark.parametrize("two", [[0.9, 0.1], [1.2, 0.2]])
def test_mean_counts_of_two_samples_are_their_shares(two):
    """Two samples have only two orders, so the randomness must come from u. Weights that sum to 1.4 give one draw."""
    drawn = sum(counts(ParetoSampler(two), epoch) for epoch in range(3000)) / 3000
    np.testing.assert_allclose(drawn, np.array(two) / sum(two), atol=0.03)


def test_counts_of_neighbours_are_uncorrelated():
    """Without the random order, weights of 0.5 would draw exactly one of every two neighbours."""
    drawn = np.array([systematic_counts(np.full(40, 0.5), s) for s in range(2000)])
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.1


@pytest.mark.parametrize("replicas", [1, 2, 3, 7])
@pytest.mark.parametrize("drop_last", [False, True])
def test_replicas_share_the_draws_of_one_epoch(weights, replicas, drop_last):
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


def test_draws_depend_on_seed_and_epoch_only(weights):
    first = ParetoSampler(weights, seed=3)
    draws = [list(first)]
    first.set_epoch(1)
    draws.append(list(first))
    draws.append(list(ParetoSampler(weights, seed=4)))
    assert len({tuple(draw) for draw in draws}) == 3
    assert list(ParetoSampler(weights, seed=3)) == draws[0]


@pytest.mark.parametrize("rank", [0, 1])
def test_skip_resumes_one_epoch(weights, rank):
    sampler = ParetoSampler(weights, num_replicas=2, rank=rank)
    whole = list(sampler)
    sampler.skip(96)
    assert len(sampler) == len(whole)
    assert list(sampler) == whole[96:]
    assert list(sampler) == whole


def test_draws_are_shuffled():
    """Repeated draws of one sample do not follow each other."""
    drawn = np.array(list(ParetoSampler(np.full(1000, 3.0))))
    assert 0 < (drawn[1:] == drawn[:-1]).sum() < 20, "it would be two thirds of 3,000 without the second shuffle"


def test_epoch_length_is_the_sum_of_the_weights():
    assert len(ParetoSampler(np.full(10, 2.0))) == 20
    assert len(ParetoSampler(np.full(10, 0.01))) == 1
    assert counts(ParetoSampler([0.0, 1.0, 2.0])).tolist() == [0, 1, 2]


def test_rounding_never_changes_integer_counts():
    """Sums of 0.1 are not exact in binary, yet 200 of them must give 20 draws and unit weights one draw each."""
    for seed in range(500):
        found = systematic_counts(np.tile([0.1] * 10, 20), seed)
        assert found.sum() == 20
        assert systematic_counts(np.ones(200), seed).tolist() == [1] * 200


@pytest.mark.parametrize("u", [0.0, 1 - 2.0**-53])
def test_rounding_changes_nothing_at_either_end_of_u(u, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(u, dtype=torch.float64))
    for seed in range(50):
        found = systematic_counts(np.append(np.full(200, 0.1), np.ones(50)), seed)
        assert found[200:].tolist() == [1] * 50
        assert found.sum() == 70
    total = 395_889
    assert len(systematic_draws(np.full(400_000, total / 400_000), torch.Generator())) == total, "the sum rounds down"


def test_accepts_sample_weights_and_rejects_bad_values():
    assert list(ParetoSampler(SampleWeights([0.0, 1.0]))) == [1]
    with pytest.raises(ValueError, match="finite and ≥ 0"):
        ParetoSampler([1.0, -1.0])
    with pytest.raises(ValueError, match="Invalid rank"):
        ParetoSampler([1.0], num_replicas=2, rank=2)
