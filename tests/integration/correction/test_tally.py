"""Whether categories fell beyond chance, and what the weights leave the others."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning_pareto.integration.correction.tally import Tally, Tallying, change, decoded, encoded
from scipy import stats

from lightning_pareto import InfluenceMatrix
from lightning_pareto.integration.correction.rules import Rules
from lightning_pareto.integration.correction.weights import Remedy, floors_of_others

RULES = {"threshold": 0.05, "level": 0.05, "least_gain": 0.0, "warmup_epochs": 3, "max_corrections": 2}


def tally(*right):
    """One category for every list of right predictions."""
    categories = [torch.full((len(part),), k) for k, part in enumerate(right)]
    return Tally(torch.cat(categories), torch.cat([torch.tensor(part, dtype=torch.bool) for part in right]))


def drawn(rng, accuracy, size):
    return tally(*[rng.random(size) < p for p in accuracy])


def test_the_same_samples_are_compared_by_a_sign_test():
    before = tally([1] * 20, [1] * 5 + [0] * 15)
    after = tally([1] * 11 + [0] * 9, [1] * 3 + [0] * 2 + [1] * 4 + [0] * 11)
    found = change(before, after, 2)
    assert found.paired
    np.testing.assert_allclose(found.before, [1, 0.25])
    np.testing.assert_allclose(found.after, [0.55, 0.35])
    lost, changed = [9, 2], [9, 6]
    expected = [stats.binomtest(b, n, 0.5, alternative="greater").pvalue for b, n in zip(lost, changed, strict=True)]
    np.testing.assert_allclose(found.p_values, expected)
    assert found.fallen(0.05, 0.05).tolist() == [True, False]


def test_samples_in_another_order_are_compared_by_fishers_test():
    before = tally([1] * 18 + [0] * 2, [1] * 10)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    fallen = tally([1] * 9 + [0] * 11, [1] * 9 + [0])
    after = Tally(fallen.category[order], fallen.right[order])
    found = change(before, after, 2)
    assert not found.paired
    expected = [stats.fisher_exact(t, alternative="less").pvalue for t in ([[9, 11], [18, 2]], [[9, 1], [10, 0]])]
    np.testing.assert_allclose(found.p_values, expected)


def test_a_fall_has_to_pass_the_threshold_and_an_allowance_for_the_number_of_classes():
    before, after = tally([1] * 200, [1] * 10), tally([1] * 193 + [0] * 7, [1] * 10)
    found = change(before, after, 2)
    assert found.p_values[0] == pytest.approx(2**-7)
    assert found.fallen(0.03, 0.05).tolist() == [True, False]
    assert not found.fallen(0.04, 0.05).any(), "3.5 points"
    assert not found.fallen(0.03, 2**-7).any(), "two classes"


@pytest.mark.parametrize("shuffled", [False, True])
def test_nothing_but_chance_is_seldom_named(shuffled):
    rng = np.random.default_rng(0)
    named = 0
    for _ in range(400):
        first, second = drawn(rng, [0.8] * 10, 60), drawn(rng, [0.8] * 10, 60)
        if shuffled:
            order = torch.from_numpy(rng.permutation(600))
            second = Tally(second.category[order], second.right[order])
        named += change(first, second, 10).fallen(0.0, 0.05).any()
    assert 0 < named / 400 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_a_category_without_samples_never_falls():
    found = change(tally([1] * 30), tally([0] * 30), 3)
    assert found.p_values.tolist()[1:] == [1, 1]
    assert np.isnan(found.after[1:]).all()
    assert found.fallen(0.0, 0.05).tolist() == [True, False, False]


def test_a_tally_survives_a_checkpoint():
    first = tally([1, 0, 1], [0, 0])
    again = decoded(encoded(first))
    assert torch.equal(again.category, first.category)
    assert torch.equal(again.right, first.right)


@pytest.mark.parametrize("limit", [None, 2])
def test_the_processes_samples_are_put_one_after_the_other_without_their_repeats(limit):
    """The second of two processes; the first has three samples, of which it tells when sizes are summed."""
    mine = encoded(tally([1, 0], [1])).long()
    tallying = Tallying(None, None, limit)
    tallying._found = [mine[:1], mine[1:]]
    answers = iter([lambda sizes: sizes + torch.tensor([3, 0]), lambda codes: codes])
    found = tallying.whole(SimpleNamespace(index=1, count=2, sum=lambda x: next(answers)(x)))
    kept = len(mine) if limit is None else limit
    assert encoded(found).tolist() == [0, 0, 0, *mine[:kept].tolist()]


def test_the_second_take_has_to_raise_every_target_and_lower_no_other_beyond_chance():
    rules = Rules(**RULES)
    ordinary = tally([0] * 20, [1] * 20, [1] * 20)
    better = tally([1] * 5 + [0] * 15, [1] * 20, [1] * 20)
    assert rules.better(ordinary, better, [0], None)
    assert not rules.better(ordinary, better, [0, 1], None)
    assert not Rules(**{**RULES, "least_gain": 0.3}).better(ordinary, better, [0], None)
    a_little = tally([1] * 5 + [0] * 15, [1] * 16 + [0] * 4, [1] * 20)
    assert rules.better(ordinary, a_little, [0], None), "4 of 20, one in sixteen, three classes"
    assert not rules.better(ordinary, tally([1] * 5 + [0] * 15, [1] * 10 + [0] * 10, [1] * 20), [0], None)


def test_when_an_epoch_may_be_taken_again():
    rules = Rules(**RULES)
    assert [rules.allow(epoch, 0) for epoch in (2, 3)] == [False, True]
    assert [rules.allow(5, done) for done in (1, 2)] == [True, False]


def influence():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(60, 3)) + np.array([-0.5, 0.3, 0.0])
    scores[:20] += [-2, 1.0, 0]  # harm the first category and help the second
    return InfluenceMatrix(scores, np.arange(60) % 3)


@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
def test_the_others_keep_their_share_of_what_an_ordinary_epoch_gives_them(keep):
    matrix = influence()
    weights = Remedy(0.3, keep, "mass_preserving", "additive").weights(matrix, [0])
    ordinary = matrix.scores.mean(axis=0)
    weighted = (weights.values[:, None] * matrix.scores).mean(axis=0)
    assert weighted[0] > ordinary[0]
    for k in (1, 2):
        assert weighted[k] >= min(keep * ordinary[k], ordinary[k]) - 1e-9
    assert keep == 1.0 or weighted[1] < ordinary[1] - 1e-3, "the floor of the second is needed"


def test_nothing_is_asked_of_a_category_that_an_ordinary_epoch_harms():
    matrix = influence()
    floors = floors_of_others(matrix, [1], 0.0)
    assert floors[0] == 0
    assert floors[1] == 0
    gain = matrix.scores[:, 2].mean()
    assert floors[2] == pytest.approx(min(-gain / np.abs(matrix.scores[:, 2]).mean(), 0))
