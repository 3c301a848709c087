"""Candidates in a search: what is accepted without another fit, and what is refused."""

import numpy as np
import pytest
import torch

from lightning_pareto import HeadRefit, ParetoTuner, WeightedSteps
from lightning_pareto.integration.tuner.options import CANDIDATES, TuningOptions
from tests.integration._models import CLASSES
from tests.integration.tuner.test_tuner import EPOCHS, Crowded, accuracy, module, ordinary_weights, tuner_in

STEPS = [WeightedSteps()]


def test_better_model_is_found_without_another_fit(tmp_path):
    data, model = Crowded(), module()
    result = tuner_in(tmp_path, candidates=STEPS).fit(model, data)
    assert result.accepted
    assert result.weights is None
    assert [trial.name for trial in result.trials][2:4] == ["half 1, weighted steps", "half 2, weighted steps"]
    assert result.epochs_spent == 3 * EPOCHS, "weights are fitted, too, and harm a class"
    chosen, *others = result.attempts
    assert (chosen.name, chosen.returned, chosen.harmed.any()) == ("weighted steps", True, False)
    assert chosen.mean == pytest.approx(result.gain)
    np.testing.assert_allclose(result.reached[1] >= result.ordinary + chosen.change - 1e-12, True)
    assert [(one.returned, one.harmed.any()) for one in others] == [(False, True)]
    assert result.reason.startswith("Weighted steps: the mean accuracy changes by +")
    before, fresh = module(), Crowded.fresh()
    before.load_state_dict(ordinary_weights(tmp_path))
    assert accuracy(model, fresh).mean() > accuracy(before, fresh).mean() + 0.01
    saved = torch.load(result.ckpt_path, weights_only=True)["state_dict"]
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())


def test_fits_follow_where_no_candidate_is_accepted(tmp_path):
    def nothing(evidence):
        return {}

    result = tuner_in(tmp_path, candidates=[nothing]).fit(module(), Crowded(val=300))
    names = [trial.name for trial in result.trials]
    assert names[2:4] == ["half 1, nothing", "half 2, nothing"]
    assert names[4] == "refit 1, budget 0.3"


def test_harmful_candidate_is_refused(tmp_path):
    def forget_class_one(evidence):
        name, bias = list(evidence.module.named_parameters())[-1]
        return {name: bias.detach() - 10 * (torch.arange(len(bias)) == 1)}

    model = module()
    result = tuner_in(tmp_path, candidates=[forget_class_one], max_epochs_spent=3 * EPOCHS).fit(model, Crowded(val=300))
    assert not result.reason.startswith("Forget class one")
    assert accuracy(model, Crowded.fresh())[1] > 0.3


def test_candidate_is_remembered_by_an_interrupted_search(tmp_path):
    calls = []

    def counted(evidence):
        calls.append(len(evidence.validation.indices))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {}

    options = {"candidates": [counted], "max_epochs_spent": 3 * EPOCHS}
    with pytest.raises(BaseException, match=r"|ended early"):
        tuner_in(tmp_path, **options).fit(module(), Crowded(val=300))
    tuner_in(tmp_path, **options).fit(module(), Crowded(val=300))
    assert len(calls) == 3, "the first half is not repeated"


def test_weights_that_a_candidate_proposes_are_fitted_and_judged(tmp_path):
    data, given = Crowded(), []

    def less_of_wrong_labels(evidence):
        given.append(evidence.influence)
        return torch.from_numpy(1 - 0.4 * data.swapped)

    model = module()
    result = tuner_in(tmp_path, candidates=[less_of_wrong_labels]).fit(model, data)
    assert result.accepted
    expected = 1 - 0.4 * data.swapped
    np.testing.assert_allclose(result.weights.values, expected / expected.mean())
    assert [trial.name for trial in result.trials][2:6] == [
        "half 1, less of wrong labels",
        "half 2, less of wrong labels",
        "refit 1, less of wrong labels",
        "refit 1, budget 0.3",
    ], "one fit is enough for weights that know no validation data"
    before = module()
    before.load_state_dict(ordinary_weights(tmp_path))
    assert accuracy(model, Crowded.fresh()).mean() > accuracy(before, Crowded.fresh()).mean() + 0.01
    for influence, half in zip(given, (0, 1), strict=True):
        assert influence.metadata["of_folds"] == list(range(half, 8, 2))


def test_weights_from_each_half_are_judged_on_the_other(tmp_path):
    def drop_the_most_harmful(evidence):
        total = torch.from_numpy(evidence.influence.total())
        return (total > total.quantile(0.2)).double()

    result = tuner_in(tmp_path, candidates=[drop_the_most_harmful], include_validation=True).fit(module(), Crowded())
    names = [trial.name for trial in result.trials if "harmful" in trial.name]
    assert names[:3] == [f"{part}, drop the most harmful" for part in ("half 1", "half 2", "all validation data")]
    assert "refit with half 1, drop the most harmful" in names


def test_weights_may_be_missing_for_all_validation_data(tmp_path):
    def sometimes(evidence):
        return {} if len(evidence.category) == 300 else torch.arange(1.0, 401)

    options = {"candidates": [sometimes], "include_validation": True}
    result = tuner_in(tmp_path, **options).fit(module(), Crowded(val=300))
    assert "refit with half 1, sometimes" in [trial.name for trial in result.trials]


def test_trials_of_candidates_count_on_the_other_half_only(tmp_path):
    data, accuracies = Crowded(val=300), []

    def look(evidence):
        accuracies.append(evidence.outcome().macro)
        return {}

    result = tuner_in(tmp_path, candidates=[look]).fit(module(), data)
    first, second = (trial.macro for trial in result.trials if trial.name.startswith("half"))
    assert (first, second) == pytest.approx((accuracies[1], accuracies[0]))


def test_category_may_lose_what_is_tolerated(tmp_path):
    """Weights without the wrong labels raise the mean by 13 points, but class 3 falls by 2."""
    data = Crowded()
    options = {
        "candidates": [lambda evidence: torch.from_numpy(~data.swapped).double()],
        "max_epochs_spent": 3 * EPOCHS,
    }
    refused = tuner_in(tmp_path / "strict", **options).fit(module(), data)
    assert "'3' would fall beyond chance" in refused.reason
    result = tuner_in(tmp_path / "tolerant", tolerance={"3": 0.03}, **options).fit(module(), data)
    assert result.accepted
    assert result.reason.endswith("No category falls by more than tolerated, beyond chance.")
    assert -0.03 < (result.after - result.before)[-1] < 0


def test_tolerance_of_an_unknown_category_is_refused_before_the_first_step(tmp_path):
    class Untrained(type(module())):
        def training_step(self, batch, batch_idx):
            raise AssertionError("a step was made")

    with pytest.raises(ValueError, match="tolerance names dog, but the categories are 0, 1, 2, 3"):
        tuner_in(tmp_path, tolerance={"dog": 0.1}).fit(Untrained(), Crowded(val=300))


def test_candidate_that_returns_nothing_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"'<lambda>' returns NoneType. Return new values by name, \{\}"):
        tuner_in(tmp_path, candidates=[lambda evidence: None]).fit(module(), Crowded(val=300))


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (torch.ones(3), r"a tensor of shape \(3,\)\. Weights for a fit have the shape \(400,\)"),
        (-torch.ones(400), "weights that no fit can use: weights must be finite and ≥ 0, found -1"),
        (torch.zeros(400), "weights that no fit can use: weights must not all be zero"),
        (torch.full((400,), torch.nan), "weights that no fit can use: weights must be finite and ≥ 0, found nan"),
    ],
)
def test_weights_that_no_fit_can_use_are_refused(tmp_path, weights, reason):
    with pytest.raises(ValueError, match=f"'<lambda>' proposes {reason}"):
        tuner_in(tmp_path, candidates=[lambda evidence: weights]).fit(module(), Crowded(val=300))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("head.weight_of_another_model", torch.zeros(3)),
        ("network.3.bias", torch.zeros(3)),
        ("network.3.bias", np.zeros(CLASSES)),
        ("network.3.bias", torch.full((CLASSES,), torch.nan)),
    ],
)
def test_values_that_fit_no_parameter_are_refused(tmp_path, name, value):
    def elsewhere(evidence):
        return {name: value}

    with pytest.raises(ValueError, match=rf"'elsewhere' proposes values for \['{name}'\]"):
        tuner_in(tmp_path, candidates=[elsewhere]).fit(module(), Crowded(val=300))


def test_each_half_is_made_from_the_other(tmp_path):
    known = []

    def watch(evidence):
        known.append(set(evidence.validation.indices))
        assert len(evidence.category) == len(evidence.validation.indices)
        assert float(evidence.weights.mean()) == pytest.approx(1)
        return {}

    tuner_in(tmp_path, candidates=[watch], max_epochs_spent=3 * EPOCHS).fit(module(), Crowded(val=300))
    assert not known[0] & known[1]
    assert known[0] | known[1] == set(range(300))


def test_model_with_all_validation_data_is_made_by_the_accepted_candidate(tmp_path):
    data, model = Crowded(), module()
    result = tuner_in(tmp_path, candidates=STEPS, include_validation=True).fit(model, data)
    assert result.reason.startswith("Weighted steps")
    last = result.trials[-1]
    assert (last.name, last.epochs) == ("all validation data, weighted steps", 0)
    assert np.isnan([last.macro, last.worst]).all(), "nothing is left to measure it"
    assert np.isfinite(result.after).all()


def test_defaults_are_for_a_direct_search_of_mass_preserving_weights():
    assert TuningOptions().cheap == CANDIDATES
    assert TuningOptions(search="genetic").cheap == TuningOptions(mode="course_correction").cheap == ()
    assert TuningOptions(search="genetic", candidates=[HeadRefit()]).cheap == (HeadRefit(),)


def test_anything_else_is_refused():
    with pytest.raises(TypeError, match="a candidate has a name"):
        ParetoTuner(lambda: None, candidates=["steps"])


def test_functions_of_one_name_are_all_tried(tmp_path):
    def scaled(factor):
        def candidate(evidence):
            name, bias = list(evidence.module.named_parameters())[-1]
            return {name: factor * bias.detach()}

        return candidate

    few = {"candidates": [scaled(0.5), scaled(0.9), scaled(1.1)], "max_epochs_spent": 3 * EPOCHS}
    result = tuner_in(tmp_path, **few).fit(module(), Crowded(val=300))
    halves = [trial.name for trial in result.trials if trial.name.startswith("half 1")]
    assert halves == ["half 1, candidate", "half 1, candidate (2)", "half 1, candidate (3)"]


def test_candidate_whose_code_has_changed_is_run_again(tmp_path):
    class Fails:
        name = "mine"

        def __repr__(self):
            return "the same"

        def propose(self, evidence):
            if len(Fails.calls) == 1:
                raise RuntimeError("a mistake")
            Fails.calls.append(evidence)
            return {}

    class Mended(Fails):
        def propose(self, evidence):
            Mended.calls.append(evidence)
            return {}

    Fails.calls = []
    options = {"max_epochs_spent": 3 * EPOCHS}
    with pytest.raises(RuntimeError, match="a mistake"):
        tuner_in(tmp_path, candidates=[Fails()], **options).fit(module(), Crowded(val=300))
    tuner_in(tmp_path, candidates=[Mended()], **options).fit(module(), Crowded(val=300))
    assert len(Fails.calls) == 3, "the half of the mistaken one is made again"


@pytest.mark.parametrize(
    ("candidates", "reason"),
    [
        ([HeadRefit], r"pass an instance, HeadRefit\(\)"),
        (HeadRefit(), r"must be a list, candidates=\[…\]"),
    ],
)
def test_class_or_single_candidate_is_refused_at_once(candidates, reason):
    with pytest.raises(TypeError, match=reason):
        TuningOptions(candidates=candidates)
