"""How two models differ, category by category, and whether that is more than chance."""

import numpy as np
import pytest
from scipy import stats

from lightning_pareto import Outcome
from lightning_pareto.evaluation.change import ClasswiseChange, fallen
from lightning_pareto.evaluation.paired_tests import margin_test, score_interval
from lightning_pareto.evaluation.tosses import TOSSES
from tests.evaluation._outcomes import NAMES, by_category, outcome, random_pair, reordered

PAIR = ("cat", "dog")


def test_p_values_are_those_of_the_sign_test():
    before, after = outcome([1, 1, 1, 0, 1, 0]), outcome([0, 0, 0, 1, 1, 0])
    change = ClasswiseChange(before, after)
    assert change.p_loss[0] == pytest.approx(5 / 16)
    assert change.p_rise[0] == pytest.approx(15 / 16)
    assert change.p_loss[1] == change.p_loss[2] == 1.0  # nothing differs
    np.testing.assert_allclose(change.accuracy, [-1 / 3, np.nan, np.nan])


def test_standard_error_is_that_of_redrawn_validation_sets():
    before, after = random_pair(0)
    rng = np.random.default_rng(1)
    members = [np.flatnonzero(before.category == k) for k in range(3)]
    redrawn = []
    for _ in range(2000):
        i = np.concatenate([rng.choice(m, len(m)) for m in members])
        pair = (outcome(o.correct[i], o.category[i]) for o in (before, after))
        redrawn.append(ClasswiseChange(*pair).macro)
    assert ClasswiseChange(before, after).macro_error == pytest.approx(np.std(redrawn), rel=0.05)


@pytest.mark.parametrize("size", [30, 300])
def test_tests_keep_their_level(size):
    changes = [ClasswiseChange(*random_pair(seed, size=size)) for seed in range(400)]
    for level in (0.05, 0.2):
        most = level + 2 * (level / 400) ** 0.5
        assert np.mean([change.p_gain <= level for change in changes]) <= most
        assert np.mean([change.rises(level) for change in changes]) <= most


def test_test_of_the_mean_has_power():
    assert all(ClasswiseChange(*random_pair(seed, size=2000, shift=0.2)).rises(0.05) for seed in range(20))
    smallest = ClasswiseChange(outcome(np.zeros(100)), outcome(np.ones(100))).p_gain
    assert smallest == 1 / (1 + TOSSES), "no number of tosses proves anything for certain"


def test_p_value_of_a_mean_over_one_category_is_that_of_the_coin():
    before, after = outcome([0] * 7 + [1] * 3 + [1] * 20), outcome([1] * 7 + [0] * 3 + [1] * 20)
    change = ClasswiseChange(before, after)
    assert change.p_gain == pytest.approx(change.p_rise[0], abs=0.01)
    assert ClasswiseChange(before, before).p_gain == 1.0


def test_losses_are_judged_family_wise():
    """Five lost and none won have p = 1/32: beyond chance alone, but not as the worst of three."""
    before = outcome([1] * 5 + [1, 0] + [0, 1], [0] * 5 + [1, 1] + [2, 2])
    after = outcome([0] * 5 + [0, 1] + [0, 1], [0] * 5 + [1, 1] + [2, 2])
    change = ClasswiseChange(before, after)
    assert change.p_loss[0] == pytest.approx(1 / 32)
    assert not change.lost(0.05).any()
    assert change.lost(0.1).tolist() == [True, False, False]


def test_second_fall_is_judged_among_the_categories_that_are_left():
    """Holm: 1/64 is multiplied by three categories, 1/32 by the two that are left."""
    category, correct = [0] * 6 + [1] * 5 + [2], np.array([True] * 12)
    change = ClasswiseChange(outcome(correct, category), outcome([0] * 11 + [1], category))
    np.testing.assert_allclose(change.p_loss, [1 / 64, 1 / 32, 1])
    assert change.lost(0.063).tolist() == [True, True, False]
    assert change.lost(0.062).tolist() == [True, False, False]
    assert not change.lost(0.046).any()


def test_rises_are_judged_family_wise():
    before = outcome([0] * 6 + [1] * 4 + [0] * 3 + [1], [0] * 10 + [1] * 4)
    after = outcome([1] * 6 + [1] * 4 + [1] * 3 + [1], [0] * 10 + [1] * 4)
    change = ClasswiseChange(before, after)
    assert change.p_rise[0] == pytest.approx(1 / 64)
    assert change.risen(0.05).tolist() == [True, False, False]
    assert not change.risen(0.03).any(), "two categories have samples"


def test_categories_have_half_of_the_level():
    """Five lost and none won have p = 1/32."""
    before, after = outcome([1] * 5), outcome([0] * 5)
    assert ClasswiseChange(before, after, level=2.001 / 32).lost()[0]
    assert not ClasswiseChange(before, after, level=1.999 / 32).lost().any()


def test_tolerated_fall_is_no_harm():
    """Ten of a hundred are lost: beyond chance, also beyond two points, but not beyond eight."""
    before, after = outcome([1] * 100), outcome([0] * 10 + [1] * 90)
    for tolerance, lost in ((0.0, True), (0.02, True), ({"cat": 0.02}, True), (0.08, False), ([0.08, 0, 0], False)):
        assert ClasswiseChange(before, after, tolerance=tolerance).lost()[0] == lost
    assert ClasswiseChange(before, after, tolerance={"dog": 0.5}).lost()[0]


def test_mean_may_lose_the_mean_of_the_tolerances():
    """Each of three categories loses 10 of 200 samples, and 5 points are tolerated."""
    before, after = by_category(*[[1] * 200] * 3), by_category(*[[0] * 10 + [1] * 190] * 3)
    assert ClasswiseChange(before, after).answer == "harmful"
    for tolerance in (0.05, 0.06, {"cat": 0.06, "dog": 0.06, "cow": 0.06}):
        change = ClasswiseChange(before, after, tolerance=tolerance)
        assert change.p_mean_loss >= 0.499, "the mean falls by less than tolerated"
        assert change.answer == "no difference"
        assert "falls by more than tolerated, beyond chance" in change.headline
    one = ClasswiseChange(before, after, tolerance={"cat": 0.03})
    assert one.macro_tolerance == pytest.approx(0.01)
    assert one.as_dict()["mean"]["tolerance"] == pytest.approx(1)
    assert one.p_mean_loss < 0.025
    assert "the mean fall by more than tolerated, beyond chance" in one.headline


def test_category_may_rise_at_a_tolerated_loss_of_the_mean():
    """Of 200 samples each, cat wins 12, and dog and cow lose 8."""
    before = by_category([1] * 100 + [0] * 100, [1] * 200, [1] * 200)
    after = by_category([1] * 112 + [0] * 88, *[[1] * 192 + [0] * 8] * 2)
    assert ClasswiseChange(before, after).answer == "harmful"
    assert ClasswiseChange(before, after, tolerance={"dog": 0.06, "cow": 0.06}).answer == "better"


def test_test_of_a_tolerated_mean_keeps_its_level():
    rng, found = np.random.default_rng(3), []
    for _ in range(1000):
        lost, won = rng.binomial(100, [0.1, 0.05, 0.03]), rng.binomial(20, 0.05, 3)
        parts = [np.repeat([0, 1, 2], [a, 100 - a - b, b]) for a, b in zip(lost, won, strict=True)]
        before, after = (by_category(*(part != missed for part in parts)) for missed in (2, 0))
        found.append(ClasswiseChange(before, after, tolerance=0.05).p_mean_loss <= 0.05)
    assert np.mean(found) < 0.065


@pytest.mark.parametrize("margin", [0.01, 0.05])
@pytest.mark.parametrize("size", [50, 200])
def test_tests_with_a_tolerance_keep_their_level(margin, size):
    """Falls that are exactly tolerated are found as seldom as the level says, over all pairs of counts."""
    lost, won = (each.ravel() for each in np.indices((size + 1, size + 1)))
    lost, won = lost[lost + won <= size], won[lost + won <= size]
    likely = (lost <= 0.35 * size) & (won <= 0.35 * size)
    lost, won = lost[likely], won[likely]
    p = margin_test(lost, won, np.full(len(lost), size), margin)
    for share in (0.0, 0.003, 0.02, 0.1):
        counts = np.stack([lost, won, size - lost - won], axis=1)
        chance = stats.multinomial.pmf(counts, size, [share + margin, share, 1 - 2 * share - margin])
        for level in (0.05, 0.025, 0.0025, 0.0003):
            assert chance[p <= level].sum() <= 1.01 * level
    assert chance[p <= 0.05].sum() > 0.03, "it has power"


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (4, 0), (0, 3), (5, 2), (9, 3)])
def test_margin_test_is_the_chance_of_all_pairs_of_counts(lost, won):
    """At the shares that make the counts most likely, found on a grid."""
    size, margin = 12, 0.1
    share = np.linspace(1e-9, (1 - margin) / 2 - 1e-9, 20_001)
    counts = np.array([lost, won, size - lost - won])
    likely = np.argmax(
        stats.multinomial.logpmf(counts, size, np.stack([share + margin, share, 1 - 2 * share - margin], 1))
    )
    pairs = [(a, b) for a in range(size + 1) for b in range(size + 1 - a) if a - b >= lost - won]
    table = [[a, b, size - a - b] for a, b in pairs]
    at = share[likely]
    expected = stats.multinomial.pmf(table, size, [at + margin, at, 1 - 2 * at - margin]).sum()
    assert margin_test(lost, won, size, margin) == pytest.approx(expected, rel=1e-3)


def test_margin_test_without_samples_finds_nothing():
    assert margin_test(np.array([0]), np.array([0]), np.array([0]), 0.02).tolist() == [1.0]


@pytest.mark.parametrize("shares", [(0.05, 0.05), (0.1, 0.02), (0.02, 0.1), (0.3, 0.1)])
@pytest.mark.parametrize("size", [20, 200])
def test_intervals_hold_the_true_change(shares, size):
    draws = np.random.default_rng(1).multinomial(size, [*shares, 1 - sum(shares)], size=2000)
    low, high = score_interval(draws[:, 0], draws[:, 1], np.full(2000, size), 0.95)
    truth = shares[1] - shares[0]
    assert 0.935 < np.mean((low <= truth) & (truth <= high)) < 0.995


def test_interval_without_any_change_is_that_of_wilson():
    """n samples on which nothing differs allow changes of up to z² / (n + z²)."""
    z2 = stats.norm.isf(0.025) ** 2
    ends = score_interval(np.array([0, 0]), np.array([0, 0]), np.array([30, 0]), 0.95)
    np.testing.assert_allclose(ends[:, 0], [-z2 / (30 + z2), z2 / (30 + z2)], rtol=1e-6)
    assert np.isnan(ends[:, 1]).all()


@pytest.mark.parametrize(
    ("classes", "size", "differ"), [(3, 40, 0.02), (10, 10, 0.02), (10, 100, 0.002), (100, 1, 0.1)]
)
def test_interval_of_the_mean_holds_the_true_change(classes, size, differ):
    """Also where the models hardly differ, or a category has one sample."""
    rng, names, held = np.random.default_rng(0), tuple(map(str, range(classes))), []
    for _ in range(400):
        before = np.ones((classes, size), dtype=bool)
        after = rng.random((classes, size)) >= differ
        low, high = ClasswiseChange(by_category(*before, names=names), by_category(*after, names=names)).macro_interval
        held.append(low <= -differ <= high)
        assert -1 <= low < high <= 1
    assert np.mean(held) >= 0.93


def test_intervals_of_the_mean_and_of_the_lowest_never_collapse_or_leave_the_scale():
    """The rule of three: 300 samples on which nothing differs allow changes of a point."""
    same = by_category(*[[1] * 100] * 3)
    for ends in (ClasswiseChange(same, same).macro_interval, ClasswiseChange(same, same).worst_interval):
        assert ends[0] < -0.009
        assert ends[1] > 0.009
    change = ClasswiseChange(by_category([1], [1], [1]), by_category([0], [0], [0]))
    assert change.macro_interval[0] == -1
    assert change.worst_interval[0] == -1


def test_answers():
    weak, strong = outcome([0] * 50 + [1] * 50), outcome([0] * 10 + [1] * 90)
    assert ClasswiseChange(weak, strong).answer == "better"
    assert ClasswiseChange(strong, weak).answer == "harmful"
    assert ClasswiseChange(weak, weak).answer == "no difference"
    category = [0] * 100 + [1] * 100
    before = outcome([0] * 50 + [1] * 150, category)
    assert ClasswiseChange(before, outcome([1] * 150 + [0] * 50, category)).answer == "trade-off"
    assert "cat rises beyond chance, but dog falls" in str(
        ClasswiseChange(before, outcome([1] * 150 + [0] * 50, category))
    ).replace("\n", " ")


def test_many_small_falls_make_the_mean_fall():
    """No single category of forty falls beyond chance, but their mean does."""
    names, category = [str(k) for k in range(40)], np.repeat(np.arange(40), 10)
    after = np.tile([0, 0] + [1] * 8, 40)
    change = ClasswiseChange(outcome(np.ones(400), category, names=names), outcome(after, category, names=names))
    assert not change.lost().any()
    assert change.answer == "harmful"
    assert "the mean falls beyond chance" in change.headline


@pytest.mark.parametrize("size", [60, 600])
def test_answers_are_rarely_wrong_if_nothing_differs(size):
    answers = [ClasswiseChange(*random_pair(seed, size=size)).answer for seed in range(200)]
    assert np.mean([answer in ("better", "trade-off") for answer in answers]) <= 0.05 + 2 * (0.05 / 200) ** 0.5
    assert np.mean([answer in ("harmful", "trade-off") for answer in answers]) <= 0.05 + 2 * (0.05 / 200) ** 0.5


def test_lowest_accuracy_is_tested_and_bounded():
    before = outcome([0] * 60 + [1] * 40 + [1] * 100, [0] * 100 + [1] * 100)
    after = outcome([0] * 20 + [1] * 80 + [0] * 10 + [1] * 90, [0] * 100 + [1] * 100)
    change = ClasswiseChange(before, after)
    assert change.worst == pytest.approx(0.4)
    assert change.p_worst_rise < 0.001 < 0.9 < ClasswiseChange(after, before).p_worst_rise
    low, high = change.worst_interval
    assert 0.25 < low < 0.4 < high < 0.55


def test_predictions_of_ones_own():
    labels = [0, 1, 1, 2]
    hard = Outcome.of(labels, [0, 1, 0, 2], NAMES)
    assert hard.correct.tolist() == [True, True, False, True]
    scores = np.array([[3.0, 1, 0], [0, 3, 1], [5, 1, 1], [0, 0, 9]])
    soft = Outcome.of(np.array(labels), scores, NAMES, categories=[1, 1, 0, 0])
    assert (soft.correct == hard.correct).all()
    assert soft.category.tolist() == [1, 1, 0, 0]
    np.testing.assert_allclose(soft.probability, np.exp(scores[range(4), labels]) / np.exp(scores).sum(1))
    shares = scores / scores.sum(1, keepdims=True)
    np.testing.assert_allclose(Outcome.of(labels, shares, NAMES).probability, shares[range(4), labels])


@pytest.mark.parametrize(
    ("labels", "predictions", "error"),
    [
        ([0, 1], [0, 1, 1], "found the shapes"),
        ([[0], [1]], [0, 1], "found the shapes"),
        ([0, 2], [[0.5, 0.5], [0.1, 0.9]], r"integers in \[0, 2\)"),
        ([0.0, 1.0], [[0.5, 0.5], [0.1, 0.9]], r"labels.astype\(int\)"),
        (["cat", "dog"], [0, 1], r"\[category_names.index\(name\) for name in labels\]"),
        ([0, 1], ["cat", "dog"], r"\[category_names.index\(name\) for name in predictions\]"),
        ([0, 1], [0.1, 0.9], "predictions .n,. must be integers, found float64"),
        ([0, 3], [0, 1], "one name for each"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(labels, predictions, error):
    with pytest.raises(ValueError, match=error):
        Outcome.of(labels, predictions, NAMES)


def test_text_says_that_the_lowest_accuracy_takes_no_part():
    """Its interval may exclude zero although nothing changes beyond chance."""
    text = " ".join(str(ClasswiseChange(*random_pair(0))).split())
    assert "No difference shown: neither a category nor the mean changes beyond chance." in text
    assert "and it takes no part in the answer" in text


def test_mean_must_not_fall_where_a_category_rises():
    size = 200
    category = np.repeat([0, 1], size)
    before = outcome(np.tile(np.arange(size) < 150, 2), category)
    after = outcome(np.concatenate([np.arange(size) < 160, np.arange(size) < 141]), category)
    assert ClasswiseChange(before, after).p_gain > 0.05
    assert ClasswiseChange(before, after).rises(0.05)
    worse = outcome(np.concatenate([np.arange(size) < 160, np.arange(size) < 139]), category)
    assert ClasswiseChange(before, worse).risen(0.05)[0]
    assert not ClasswiseChange(before, worse).rises(0.05)


def test_many_looks_require_more():
    before, after = outcome([0] * 30 + [1] * 30), outcome([1] * 6 + [0] * 24 + [1] * 30)
    p = ClasswiseChange(before, after).p_gain
    assert ClasswiseChange(before, after).rises(2 * p)
    assert not ClasswiseChange(before, after).rises(1.5 * p)  # half the level is for the single categories
    assert not ClasswiseChange(before, after).rises(2 * p, looks=4)


def test_other_samples_are_refused_with_the_likely_cause():
    with pytest.raises(ValueError, match="seeded generator"):
        ClasswiseChange(outcome([1, 0]), outcome([1, 0], [0, 1]))
    with pytest.raises(ValueError, match=r"different categories: \['cat', 'dog', 'cow'\] and \['a', 'b', 'c'\]"):
        ClasswiseChange(outcome([1, 0]), outcome([1, 0], names=("a", "b", "c")))
    many = [str(k) for k in range(300)]
    with pytest.raises(ValueError, match=r"\['299'\] and \['other'\] from number 299 on"):
        ClasswiseChange(outcome([1, 0], names=tuple(many)), outcome([1, 0], names=(*many[:-1], "other")))


@pytest.mark.parametrize(
    ("tolerance", "error"),
    [
        ("much", "found much. Divide points by 100"),
        ([0.1, [0.2]], "must be a number"),
        ({"cat": "x"}, "must be a number"),
        ({"cat": float("nan")}, "must be a number"),
        ([0.1, 0.2], "each of 3 categories"),
        ({"c\x1bat": 0.1}, r"names c\?at, but the categories are cat, dog, cow"),
    ],
)
def test_tolerances_that_do_not_fit_are_refused(tolerance, error):
    with pytest.raises(ValueError, match=error):
        ClasswiseChange(outcome([1, 0]), outcome([1, 0]), tolerance=tolerance)


def test_categories_without_names_have_tolerances_by_number():
    found = [outcome([1, 0], names=("0", "1")) for _ in range(2)]
    assert ClasswiseChange(*found, tolerance={1: 0.1}).tolerance.tolist() == [0.0, 0.1]


def test_same_samples_are_compared_by_a_sign_test():
    """Nine lost and none won have p = 2^-9, two lost of six that differ have p = 57/64."""
    before = by_category([1] * 20, [1] * 5 + [0] * 15, names=PAIR)
    after = by_category([1] * 11 + [0] * 9, [1] * 3 + [0] * 2 + [1] * 4 + [0] * 11, names=PAIR)
    p = stats.binomtest(9, 9, 0.5, alternative="greater").pvalue
    assert fallen(before, after, level=2.001 * p, threshold=0.05).tolist() == [True, False]
    assert not fallen(before, after, level=1.999 * p, threshold=0.05).any()


def test_samples_in_another_order_are_compared_by_fishers_test():
    before = by_category([1] * 18 + [0] * 2, [1] * 10, names=PAIR)
    after = reordered(by_category([1] * 9 + [0] * 11, [1] * 9 + [0], names=PAIR))
    p = stats.fisher_exact([[9, 11], [18, 2]], alternative="less").pvalue
    assert fallen(before, after, level=2.001 * p).tolist() == [True, False]
    assert not fallen(before, after, level=1.999 * p).any()


def test_pairing_has_more_power_than_counts():
    """Eight of 100 right samples are lost and none is won: beyond chance if they are paired, not from counts."""
    before = by_category([1] * 100 + [0] * 100, [1] * 10, names=PAIR)
    after = by_category([1] * 92 + [0] * 8 + [0] * 100, [1] * 10, names=PAIR)
    assert fallen(before, after, level=0.05).tolist() == [True, False]
    assert not fallen(before, reordered(after), level=0.05).any()


def test_fall_must_exceed_the_threshold_and_the_family_wise_level():
    before, after = by_category([1] * 200, [1] * 10), by_category([1] * 193 + [0] * 7, [1] * 10)
    assert fallen(before, after, level=0.05, threshold=0.03).tolist() == [True, False, False]
    assert not fallen(before, after, level=0.05, threshold=0.04).any(), "3.5 points"
    assert fallen(before, after, level=2 * 2**-7, threshold=0.03).any()
    assert not fallen(before, after, level=1.9 * 2**-7, threshold=0.03).any(), "two categories have samples"


def test_second_fall_is_found_where_bonferroni_would_miss_it():
    """p = 2^-10 and 2^-5 of two categories: 2^-5 ≤ 0.05 < 2 · 2^-5."""
    before = by_category([1] * 10, [1] * 5, names=PAIR)
    after = by_category([0] * 10, [0] * 5, names=PAIR)
    assert fallen(before, after, level=0.05).tolist() == [True, True]
    assert not fallen(before, by_category([1] * 10, [0] * 5, names=PAIR), level=0.05).any()


@pytest.mark.parametrize("shuffled", [False, True])
def test_chance_alone_seldom_names_a_category(shuffled):
    rng = np.random.default_rng(0)
    names, named = tuple(map(str, range(10))), 0
    for repetition in range(400):
        first, second = (by_category(*(rng.random((10, 60)) < 0.8), names=names) for _ in range(2))
        named += fallen(first, reordered(second, repetition) if shuffled else second, level=0.05).any()
    assert 0 < named / 400 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize("shuffled", [False, True])
def test_category_without_samples_never_falls_and_costs_no_power(shuffled):
    """Five of five lost have p = 2^-5, times one category with samples in both."""
    before = by_category([1] * 5, [], [1] * 40 if shuffled else [])
    after = by_category([0] * 5, [0] * 40 if shuffled else [], [])
    level = stats.fisher_exact([[0, 5], [5, 0]], alternative="less").pvalue if shuffled else 2**-5
    assert fallen(before, after, level=1.001 * level).tolist() == [True, False, False]
    assert not fallen(before, after, level=0.999 * level).any()
