"""Tests of the integration that must also pass on a GPU."""

# ruff: noqa: F401 (pytest collects the imported tests)

from tests.integration.test_compatibility import (
    test_an_epoch_is_rerun,
    test_influence_is_that_of_the_trained_model_on_all_samples,
    test_weighted_fit_draws_by_weight,
)
from tests.integration.validation.test_callback import (
    test_metrics_and_outcomes_of_an_epoch_agree_with_its_predictions,
)
from tests.integration.validation.test_logits import (
    test_forward_pass_of_its_own_has_the_trainers_precision,
    test_logits_of_the_step_and_of_a_pass_of_its_own_agree,
)
from tests.integration.validation.test_metrics import (
    test_each_validation_is_counted_alone_and_compared_with_the_previous_one,
    test_metrics_of_the_user_under_their_own_names,
    test_named_metrics_are_those_of_scikit_learn_and_torchmetrics,
)
