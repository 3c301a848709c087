"""Do no harm: which model a search returns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lightning_pareto import SampleWeights
from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.integration.tuner.judge import Judge, Tried, epochs_for, with_validation
from lightning_pareto.integration.tuner.search import Finalist
from lightning_pareto.integration.tuner.trial_result import TrialResult

SIZE = 400
CATEGORY = np.arange(SIZE) % 2
FIRST = np.arange(SIZE) % 4 < 2
NAMES = ("cat", "dog")


def result(name, hits, at=None):
    """A model that is right on the first `hits[k]` of the 200 samples of category k."""
    rank = np.arange(SIZE) // 2
    correct = rank < np.asarray(hits)[CATEGORY]
    outcome = Outcome(CATEGORY, correct, correct.astype(float), NAMES)
    return TrialResult(name, outcome, 3, 2, np.zeros(3), Path(name))


def tried(*results, looks=1):
    masks = [FIRST, ~FIRST][: len(results)]
    weights = [SampleWeights(np.full(2, 1.0 + i)) for i in range(len(results))]
    return Tried(Finalist("weights", tuple(zip(weights, masks, strict=True)), looks), results)


def chosen(given, ordinary, *finalists, level=0.05, improvable=False, joined=None):
    judge = Judge(level=level, improvable=improvable)
    return judge.choose(given, ordinary, finalists, trials=[given], joined=joined)[0]


def with_validation_data(*results):
    return Tried(Finalist("both", ((None, FIRST), (None, ~FIRST))), results)


GIVEN = result("given", [150, 150])


def test_model_that_is_better_beyond_chance_is_accepted():
    found = chosen(GIVEN, GIVEN, tried(result("a", [170, 160]), result("b", [172, 160])))
    assert found.accepted
    assert found.ckpt_path == "b"
    assert found.weights.values.tolist() == [2.0, 2.0]
    assert found.gain == pytest.approx((171 + 160 - 300) / 400)
    np.testing.assert_allclose(found.after, [171 / 200, 160 / 200])
    assert found.support.sum() == SIZE
    assert np.isnan(found.refused).all()
    assert "refused" not in str(found)
    np.testing.assert_array_equal(found.p_values, 1)  # of a fall, of which there is none


def test_fit_counts_only_on_samples_that_its_weights_have_not_seen():
    """Perfect on the half that its weights know and no better on the other: nothing is gained."""
    honest = result("a", [150, 150])
    correct = np.where(FIRST, honest.outcome.correct, True)
    cheat = TrialResult("a", Outcome(CATEGORY, correct, correct.astype(float), NAMES), 3, 2, np.zeros(3), Path("a"))
    assert cheat.outcome.macro > 0.85
    found = chosen(GIVEN, GIVEN, tried(cheat))
    assert not found.accepted
    assert found.gain == 0


def test_accuracy_that_a_refused_model_would_have_had():
    """It is that of the returned model plus the change on samples that the weights have not seen."""
    worse = result("j", [199, 130])
    assert np.isnan(chosen(GIVEN, GIVEN, joined=with_validation_data(worse, worse)).refused).all(), "without weights"
    correct = np.where(FIRST, GIVEN.outcome.correct, True)
    given = replace(GIVEN, outcome=Outcome(CATEGORY, correct, correct.astype(float), NAMES))
    found = chosen(given, given, tried(given))
    np.testing.assert_allclose(found.refused, found.after)
    better = result("j", [180, 180])
    found = chosen(GIVEN, GIVEN, tried(worse, worse), joined=with_validation_data(better, better))
    assert (found.accepted, found.ckpt_path) == (False, "j")
    np.testing.assert_allclose(found.refused, [199 / 200, 130 / 200])


def test_falling_mean_is_not_called_too_small_a_gain():
    assert "which is no gain." in chosen(GIVEN, GIVEN, tried(result("a", [149, 150]), result("b", [150, 149]))).reason
    more = chosen(GIVEN, GIVEN, tried(result("a", [151, 150]), result("b", [150, 150])))
    assert "which is too little to be sure of." in more.reason


def test_small_gain_needs_a_verdict():
    small = result("a", [153, 150])
    assert not chosen(GIVEN, GIVEN, tried(small, small)).accepted
    assert chosen(GIVEN, GIVEN, tried(small, small), improvable=True).accepted
    assert not chosen(GIVEN, GIVEN, tried(result("a", [151, 150]), result("a", [150, 150])), improvable=True).accepted


def test_verdict_does_not_excuse_many_looks():
    """Three more hits have p = 1/8 for a single look."""
    small = result("a", [153, 150])
    assert not chosen(GIVEN, GIVEN, tried(small, small, looks=2), improvable=True).accepted


def test_falling_category_refuses_a_model_and_is_named():
    found = chosen(GIVEN, GIVEN, tried(result("a", [199, 130]), result("b", [199, 130])), improvable=True)
    assert not found.accepted
    assert "'dog' would fall beyond chance" in found.reason
    np.testing.assert_allclose(found.refused, [199 / 200, 130 / 200])
    assert {"99.5", "65.0"} <= {line.split()[-1] for line in str(found).splitlines() if line.startswith(("cat", "dog"))}
    assert "Refused: accuracy in % that the best of the other models, which was refused," in str(found).replace(
        "\n", " "
    )
    assert found.ckpt_path == "given"
    np.testing.assert_array_equal(found.before, found.after)


def test_one_category_that_rises_beyond_chance_is_enough():
    """The mean hardly changes, because the other category falls a little, which may be chance."""
    found = chosen(GIVEN, GIVEN, tried(result("a", [157, 146]), result("b", [157, 146])))
    assert found.accepted
    assert "'cat' rises beyond chance" in found.reason
    assert not chosen(GIVEN, GIVEN, tried(result("a", [156, 143]), result("b", [156, 143]))).accepted  # the mean falls


def test_returned_model_harms_nothing_on_its_own_samples():
    """Together the two models do no harm, but the better one alone does."""
    better = result("a", [160, 150])
    rank, b_correct = np.arange(SIZE) // 2, better.outcome.correct.copy()
    b_correct[~FIRST & (CATEGORY == 0)] = True
    own_dogs = np.flatnonzero(~FIRST & (CATEGORY == 1) & b_correct)
    b_correct[own_dogs[:7]] = False
    a_correct = better.outcome.correct.copy()
    a_correct[np.flatnonzero(FIRST & (CATEGORY == 1) & ~a_correct)[:7]] = True
    models = [
        TrialResult(name, Outcome(CATEGORY, c, c.astype(float), NAMES), 3, 2, np.zeros(3), Path(name))
        for name, c in (("a", a_correct), ("b", b_correct))
    ]
    assert rank.max() == 199
    found = chosen(GIVEN, GIVEN, tried(*models))
    assert found.accepted
    assert found.ckpt_path == "a"


def test_harm_that_only_both_models_together_show_refuses_them():
    """Each loses four dogs on its own half, which may be chance. Eight of eight are not."""
    found = chosen(GIVEN, GIVEN, tried(result("a", [180, 142]), result("b", [180, 142])))
    assert not found.accepted
    assert "'dog' would fall beyond chance" in found.reason


def test_more_looks_and_more_finalists_require_more():
    better = result("a", [157, 150])
    one = tried(better, better)
    assert chosen(GIVEN, GIVEN, one).accepted
    assert not chosen(GIVEN, GIVEN, tried(better, better, looks=40)).accepted
    assert not chosen(GIVEN, GIVEN, *[one] * 40).accepted


def test_next_best_is_chosen_if_the_best_does_harm():
    harmful = tried(result("a", [200, 135]), result("b", [200, 135]))
    printable = tried(result("c", [170, 160]), result("d", [170, 160]))
    found = chosen(GIVEN, GIVEN, harmful, printable)
    assert found.accepted
    assert found.ckpt_path in "cd"


def test_better_ordinary_model_is_the_one_to_beat_and_to_return():
    ordinary = result("ordinary", [170, 165])
    found = chosen(GIVEN, ordinary, tried(result("a", [170, 160]), result("b", [170, 160])))
    assert not found.accepted
    assert found.ckpt_path == "ordinary"
    np.testing.assert_allclose(found.after, [170 / 200, 165 / 200])


def test_ordinary_model_that_does_harm_is_not_returned():
    found = chosen(GIVEN, result("ordinary", [199, 135]))
    assert found.ckpt_path == "given"
    assert found.reason == "No weights promised a gain. The best ordinary model is returned."


def test_model_must_not_be_worse_than_the_given_one_either():
    """In one category it is level with the ordinary model and far below the given one."""
    ordinary = result("ordinary", [190, 148])
    given = result("given", [150, 150])
    found = chosen(given, ordinary, tried(result("a", [199, 136]), result("b", [199, 136])))
    assert not found.accepted


def test_two_small_falls_may_together_be_beyond_chance():
    """Four dogs less than an ordinary model, which has four less than the given one."""
    ordinary, better = result("ordinary", [170, 146]), result("a", [190, 142])
    assert chosen(ordinary, ordinary, tried(better, better)).accepted
    assert not chosen(GIVEN, ordinary, tried(better, better)).accepted


def test_samples_that_the_weights_know_do_not_count():
    better = result("a", [172, 160])
    better.outcome.correct[~FIRST & (CATEGORY == 1)] = False
    assert chosen(GIVEN, GIVEN, tried(better, result("b", [170, 160]))).ckpt_path == "a"


def test_finalists_measured_on_different_samples_can_be_compared():
    found = chosen(
        GIVEN, GIVEN, tried(result("a", [170, 160])), tried(result("b", [165, 160]), result("c", [165, 160]))
    )
    assert found.accepted


def test_validation_data_alone_need_no_proof_but_must_do_no_harm():
    small, harmful = result("a", [152, 150]), result("a", [199, 130])
    found = chosen(GIVEN, GIVEN, joined=with_validation_data(small, small))
    assert (found.accepted, found.weights, found.ckpt_path) == (False, None, "a")
    assert found.after.mean() > found.before.mean()
    assert found.reason.startswith(
        "Fits with half of the validation data and no weights: the mean accuracy changes by +0.5"
    )
    found = chosen(GIVEN, GIVEN, joined=with_validation_data(harmful, harmful))
    assert found.ckpt_path == "given"
    assert "'dog' would fall beyond chance" in found.reason
    lower = result("a", [149, 150])
    assert chosen(GIVEN, GIVEN, joined=with_validation_data(lower, lower)).ckpt_path == "given"


def test_weights_must_beat_the_validation_data_alone():
    more = with_validation_data(result("a", [180, 180]), result("a", [180, 180]))
    same, better = result("b", [180, 180]), result("b", [180, 184])
    assert not chosen(GIVEN, GIVEN, tried(same, same), improvable=True, joined=more).accepted
    assert not chosen(GIVEN, GIVEN, tried(better, better), joined=more).accepted
    found = chosen(GIVEN, GIVEN, tried(better, better), improvable=True, joined=more)
    assert found.accepted
    assert "The weights contribute +1.0 ± 0.5 points, the validation data the rest." in found.reason
    proof = result("b", [181, 195])
    assert chosen(GIVEN, GIVEN, tried(proof, proof), joined=more).accepted


def test_harmful_weights_leave_the_fits_with_validation_data():
    more = with_validation_data(result("a", [160, 160]), result("a", [160, 160]))
    harmful = result("b", [199, 130])
    found = chosen(GIVEN, GIVEN, tried(harmful, harmful), improvable=True, joined=more)
    assert (found.accepted, found.ckpt_path) == (False, "a")


def test_fits_with_one_half_are_compared_on_the_other():
    """Weights from one half only are measured on the other half, and so are the fits that they have to beat."""
    bad = result("a", [0, 0])
    more = with_validation_data(result("a", [160, 160]), bad)  # the second fit does not count
    good = result("b", [165, 165])
    found = chosen(GIVEN, GIVEN, tried(good), improvable=True, joined=more)
    assert found.accepted
    assert "The weights contribute" not in found.reason
    more = with_validation_data(result("a", [160, 160]), result("a", [160, 160]))
    assert "The weights contribute" in chosen(GIVEN, GIVEN, tried(good), improvable=True, joined=more).reason


def test_weakest_category_can_justify_weights_on_top_of_validation_data():
    given = result("given", [120, 180])
    more = with_validation_data(result("a", [130, 185]), result("a", [130, 185]))
    weak, strong = result("b", [140, 185]), result("b", [130, 189])
    assert chosen(given, given, tried(weak, weak), joined=more).accepted
    assert not chosen(
        given, given, tried(strong, strong), joined=more
    ).accepted  # the same p, but of the other category
    lower = result("b", [140, 174])
    assert not chosen(given, given, tried(lower, lower), joined=more).accepted  # the mean falls


def test_weakest_category_counts_for_one_look_and_if_the_mean_does_not_fall():
    given = result("given", [120, 180])
    more = with_validation_data(result("a", [130, 185]), result("a", [130, 185]))
    weak, lower = result("b", [133, 185]), result("b", [133, 181])
    assert chosen(given, given, tried(weak, weak), joined=more).accepted  # p = 1/8
    assert not chosen(given, given, tried(weak, weak, looks=2), joined=more).accepted
    assert not chosen(given, given, tried(lower, lower), joined=more).accepted


def test_lowest_category_decides_between_equal_means():
    even, tilted = result("even", [180, 178]), result("tilted", [190, 168])
    found = chosen(GIVEN, GIVEN, tried(even, even), tried(tilted, tilted), improvable=True)
    assert found.ckpt_path == "even"
    best = result("best", [190, 169])  # better by a quarter of a point in the mean, less than its error
    assert chosen(GIVEN, GIVEN, tried(even, even), tried(best, best), improvable=True).ckpt_path == "even"
    better = result("better", [196, 178])
    assert chosen(GIVEN, GIVEN, tried(even, even), tried(better, better), improvable=True).ckpt_path == "better"
    clearly = result("clearly", [200, 170])
    found = chosen(GIVEN, GIVEN, tried(even, even), tried(clearly, clearly), improvable=True)
    assert found.ckpt_path == "clearly"  # its lowest is lower, but its mean is higher by more than an error


def test_last_fit_is_as_long_as_was_best_for_the_other_fits_together():
    def fit(*history, epochs=None, best=1):
        outcome = GIVEN.outcome
        return TrialResult("fit", outcome, epochs or len(history), best, np.array(history), Path("fit"))

    assert epochs_for([fit(0.5, 0.8, 0.7), fit(0.5, 0.6, 0.9)]) == 3
    assert epochs_for([fit(0.5, 0.8, 0.7, 0.9), fit(0.5, 0.6)]) == 2  # one stopped early
    assert (
        epochs_for([fit(0.5, 0.6, epochs=4, best=2), fit(0.5, 0.6, epochs=4, best=4)]) == 3
    )  # validation after every second epoch


def test_last_fit_uses_the_weights_from_all_validation_data():
    one = tried(result("a", [170, 160]), result("b", [172, 160]))
    whole = SampleWeights(np.full(2, 7.0))
    one = Tried(replace(one.finalist, from_all=whole), one.results)
    last = result("last", [200, 200])
    found = with_validation(chosen(GIVEN, GIVEN, one), one, 2, last, [GIVEN, last])
    assert found.weights is whole
    assert (found.ckpt_path, found.best_epoch) == ("last", 2)
    assert [np.isnan(trial.macro) for trial in found.trials] == [False, True]
