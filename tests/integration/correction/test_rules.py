"""When an epoch is rerun, when the rerun is kept, and how that is recorded."""

import numpy as np
import pytest

from lightning_pareto.integration.correction.rules import Rules, correction_of
from tests.evaluation._outcomes import by_category

OPTIONS = {"threshold": 0.05, "level": 0.05, "least_gain": 0.0, "warmup_epochs": 3, "max_corrections": 2}


def rules(**options):
    return Rules(**{**OPTIONS, **options})


def test_categories_that_fell_are_named_by_number():
    before = by_category([1] * 20, [1] * 20, [1] * 20)
    after = by_category([1] * 20, [1] * 8 + [0] * 12, [1] * 18 + [0] * 2)
    assert rules().fallen(before, after) == [1]
    assert rules(threshold=0.7).fallen(before, after) == []
    assert rules(level=2**-12).fallen(before, after) == [], "three categories, p = 2^-12"


def test_rerun_must_raise_every_target_and_lower_no_category_beyond_chance():
    ordinary = by_category([0] * 20, [1] * 20, [1] * 20)
    better = by_category([1] * 5 + [0] * 15, [1] * 20, [1] * 20)
    assert rules().better(ordinary, better, [0])
    assert not rules().better(ordinary, better, [0, 1])
    assert not rules(least_gain=0.3).better(ordinary, better, [0])
    lower = by_category([1] * 5 + [0] * 15, [1] * 16 + [0] * 4, [1] * 20)
    assert rules().better(ordinary, lower, [0]), "4 of 20, p = 1/16, among three classes"
    assert not rules().better(ordinary, by_category([1] * 5 + [0] * 15, [1] * 10 + [0] * 10, [1] * 20), [0])


def test_threshold_does_not_excuse_harm_of_the_rerun():
    """A fall of 4 points that is beyond chance refuses the rerun, though it would not start one."""
    ordinary = by_category([0] * 50, [1] * 500, [1] * 20)
    rerun = by_category([1] * 50, [1] * 480 + [0] * 20, [1] * 20)
    assert rules().fallen(ordinary, rerun) == []
    assert not rules().better(ordinary, rerun, [0])


@pytest.mark.parametrize("names", [("0", "1"), ("0", "1", "2")])
def test_categories_without_given_names_may_turn_up_later(names):
    """Numbered categories are known as far as they were seen."""
    before = by_category([1] * 20, [1] * 20, names=("0", "1"))
    after = by_category([0] * 20, [1] * 20, *[[1] * 5] * (len(names) - 2), names=names)
    assert rules().fallen(before, after) == [0]
    assert rules().better(after, before, [0])


def test_epochs_may_be_rerun_after_the_warmup_and_so_often():
    assert [rules().allow(epoch, 0) for epoch in (2, 3)] == [False, True]
    assert [rules().allow(5, done) for done in (1, 2)] == [True, False]


def test_record_holds_the_accuracies_of_all_outcomes():
    before, ordinary = by_category([1] * 4, [1] * 2, []), by_category([0] * 4, [1, 0], [])
    rerun = by_category([1, 1, 1, 0], [1, 1], [])
    found = correction_of(7, [0], before=before, ordinary=ordinary, rerun=rerun, accepted=True)
    assert (found.epoch, found.fallen, found.category_names) == (7, ("cat",), ("cat", "dog", "cow"))
    np.testing.assert_array_equal(found.before, [1, 1, np.nan])
    np.testing.assert_array_equal(found.ordinary, [0, 0.5, np.nan])
    np.testing.assert_array_equal(found.again, [0.75, 1, np.nan])
    assert found.accepted
    stopped = correction_of(7, [0], before=before, ordinary=ordinary, rerun=None, accepted=False)
    assert stopped.again == ()
