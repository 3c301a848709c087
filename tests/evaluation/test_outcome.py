"""Two models on the same validation samples."""

import itertools

import numpy as np
import pytest

from lightning_pareto.evaluation.outcome import TOSSES, Change, Outcome

NAMES = ("cat", "dog", "cow")


def outcome(correct, category=None, probability=None):
    correct = np.asarray(correct, dtype=bool)
    category = np.zeros(len(correct), dtype=int) if category is None else np.asarray(category)
    return Outcome(category, correct, np.asarray(probability if probability is not None else correct, float), NAMES)


def random_pair(seed, size=300, shift=0.0):
    rng = np.random.default_rng(seed)
    category = rng.integers(3, size=size)
    before = rng.uniform(size=size) < 0.8
    after = np.where(rng.uniform(size=size) < 0.2, rng.uniform(size=size) < 0.8 + shift, before)
    return outcome(before, category), outcome(after, category)


def test_accuracy_of_every_category_and_of_none():
    found = outcome([1, 0, 1, 1], [0, 0, 1, 1], [0.9, 0.2, 0.8, 0.6])
    np.testing.assert_allclose(found.accuracy, [0.5, 1.0, np.nan])
    np.testing.assert_allclose(found.soft_accuracy, [0.55, 0.7, np.nan])
    assert found.macro == 0.75
    assert found.support.tolist() == [2, 2, 0]


@pytest.mark.parametrize("worse", range(5))
def test_the_p_value_is_the_share_of_all_coin_tosses(worse):
    """Of four samples on which the models differ, `worse` were lost: count the outcomes of four coins."""
    before = [1] * worse + [0] * (4 - worse) + [1, 0]
    after = [0] * worse + [1] * (4 - worse) + [1, 0]
    change = Change(outcome(before), outcome(after))
    tosses = [sum(toss) for toss in itertools.product((0, 1), repeat=4)]
    assert change.p_loss[0] == pytest.approx(np.mean([heads >= worse for heads in tosses]))
    assert change.p_rise[0] == pytest.approx(np.mean([heads >= 4 - worse for heads in tosses]))
    assert change.p_loss[1] == change.p_loss[2] == 1.0  # nothing differs


def test_the_standard_error_is_that_of_redrawn_validation_sets():
    before, after = random_pair(0)
    rng = np.random.default_rng(1)
    members = [np.flatnonzero(before.category == k) for k in range(3)]
    redrawn = []
    for _ in range(2000):
        i = np.concatenate([rng.choice(m, len(m)) for m in members])
        pair = (outcome(o.correct[i], o.category[i]) for o in (before, after))
        redrawn.append(Change(*pair).macro)
    assert Change(before, after).macro_error == pytest.approx(np.std(redrawn), rel=0.05)


@pytest.mark.parametrize("size", [30, 300])
def test_the_tests_keep_their_level(size):
    changes = [Change(*random_pair(seed, size=size)) for seed in range(400)]
    for level in (0.05, 0.2):
        most = level + 2 * (level / 400) ** 0.5
        assert np.mean([change.p_gain <= level for change in changes]) <= most
        assert np.mean([change.rises(level) for change in changes]) <= most


def test_the_test_of_the_mean_has_power():
    assert all(Change(*random_pair(seed, size=2000, shift=0.2)).rises(0.05) for seed in range(20))
    surest = Change(outcome(np.zeros(100)), outcome(np.ones(100))).p_gain
    assert surest == 1 / (1 + TOSSES), "no number of tosses proves a thing for certain"


def test_the_p_value_of_a_mean_over_one_category_is_that_of_the_coin():
    before, after = outcome([0] * 7 + [1] * 3 + [1] * 20), outcome([1] * 7 + [0] * 3 + [1] * 20)
    change = Change(before, after)
    assert change.p_gain == pytest.approx(change.p_rise[0], abs=0.01)
    assert Change(before, before).p_gain == 1.0


def test_losses_are_judged_family_wise():
    """Five lost and none won have p = 1/32: beyond chance alone, but not as the worst of two that differ."""
    before = outcome([1] * 5 + [1, 0] + [0, 1], [0] * 5 + [1, 1] + [2, 2])
    after = outcome([0] * 5 + [0, 1] + [0, 1], [0] * 5 + [1, 1] + [2, 2])
    change = Change(before, after)
    assert change.p_loss[0] == pytest.approx(1 / 32)
    assert not change.lost(0.05).any()
    assert change.lost(0.1).tolist() == [True, False, False]


def test_the_second_of_two_that_fall_is_judged_among_those_left():
    """Holm: 1/64 is multiplied by three categories, 1/32 by the two that are left."""
    category, correct = [0] * 6 + [1] * 5 + [2], np.array([True] * 12)
    change = Change(outcome(correct, category), outcome([0] * 11 + [1], category))
    np.testing.assert_allclose(change.p_loss, [1 / 64, 1 / 32, 1])
    assert change.lost(0.063).tolist() == [True, True, False]
    assert change.lost(0.062).tolist() == [True, False, False]
    assert not change.lost(0.046).any()


def test_categories_that_rise_are_judged_family_wise():
    before = outcome([0] * 6 + [1] * 4 + [0] * 3 + [1], [0] * 10 + [1] * 4)
    after = outcome([1] * 6 + [1] * 4 + [1] * 3 + [1], [0] * 10 + [1] * 4)
    change = Change(before, after)
    assert change.p_rise[0] == pytest.approx(1 / 64)
    assert change.risen(0.05).tolist() == [True, False, False]
    assert not change.risen(0.04).any()


def test_the_mean_has_not_to_fall_where_a_category_rises():
    size = 200
    category = np.repeat([0, 1], size)
    before = outcome(np.tile(np.arange(size) < 150, 2), category)
    after = outcome(np.concatenate([np.arange(size) < 160, np.arange(size) < 141]), category)
    assert Change(before, after).p_gain > 0.05
    assert Change(before, after).rises(0.05)
    worse = outcome(np.concatenate([np.arange(size) < 160, np.arange(size) < 139]), category)
    assert Change(before, worse).risen(0.05)[0]
    assert not Change(before, worse).rises(0.05)


def test_many_looks_ask_for_more():
    before, after = outcome([0] * 30 + [1] * 30), outcome([1] * 6 + [0] * 24 + [1] * 30)
    p = Change(before, after).p_gain
    assert Change(before, after).rises(2 * p)
    assert not Change(before, after).rises(1.5 * p)  # half the level is for the single categories
    assert not Change(before, after).rises(2 * p, looks=4)


def test_other_samples_are_refused_with_the_likely_cause():
    with pytest.raises(ValueError, match="seeded generator"):
        Change(outcome([1, 0]), outcome([1, 0], [0, 1]))


def test_an_outcome_of_some_samples_takes_its_place_among_all():
    chosen = np.array([True, False, True, False])
    whole = Outcome(np.array([0, 1, 1, 0]), np.zeros(4, dtype=bool), np.full(4, 0.1), ("a", "b"))
    part = Outcome(np.array([0, 1]), np.array([True, False]), np.array([0.9, 0.4]), ("0", "1"))
    placed = part.placed(chosen, whole)
    assert placed.correct.tolist() == [True, False, False, False]
    assert placed.probability.tolist() == [0.9, 0.1, 0.4, 0.1]
    assert placed.names == ("a", "b")
    assert not whole.correct.any()
    with pytest.raises(ValueError, match="measured on different validation samples"):
        part.placed(~chosen, whole)
