"""Reaches the verdict: whether the categories can still gain, and how certain that is."""

import numpy as np

from lightning_pareto.arguments import checked_number
from lightning_pareto.influence.gains import predicted_gain
from lightning_pareto.influence.matrix import InfluenceMatrix, check_generalisation
from lightning_pareto.linprog import InfeasibleError
from lightning_pareto.pareto.admissible import DEFAULT_BUDGET, AdmissibleSet, Float, check_budget
from lightning_pareto.pareto.demand import Demand, Limits, Targets, read_demand
from lightning_pareto.pareto.headroom import floors_out_of_reach, gains_alone, headroom
from lightning_pareto.pareto.hyperplane import correlation, explained_variance_ratio, hyperplane_distance, regions
from lightning_pareto.pareto.result import ParetoVerdict
from lightning_pareto.pareto.sifting import FloorsError
from lightning_pareto.pareto.significance import LEAST_FOLDS, HeldOutGain, cross_fit

__all__ = ["ParetoVerdict", "check_options", "check_pareto"]

DEFAULT_LEVEL = 0.05


def check_pareto(
    influence: InfluenceMatrix,
    *,
    budget: float | None = None,
    level: float | None = None,
    min_gain: float = 0.01,
    targets: Targets = None,
    floors: Limits = None,
) -> ParetoVerdict:
    """Check whether reweighting the training data can still improve all categories, or some without loss of others.

    The headroom LP ``h = max_w min_k gain_k(w)/s_k`` over mass-preserving weights is solved on all validation folds but
    one and evaluated on the remaining fold, for each fold in turn. An intersection-union test over the categories then
    asks whether all of them gain. Its standard errors allow for the correlation of the folds. With fewer than three
    folds, nothing is proven and the verdict only describes the gain in sample.

    With ``targets``, the minimum is over the targets, subject to the floors of the other categories. The test asks
    whether every target gains and every other category loses less than ``min_gain`` below its floor. The weights leave
    no slack at a binding floor, so a proof then needs a standard error below ``min_gain``, which takes thousands of
    validation samples. Use a lower floor, such as −0.05, only if you would accept that loss.

    If the model was fitted with weights, changes start from them, gains count from there, and the budget bounds what is
    moved in all rounds together.

    Args:
        influence: the influence matrix. A proof needs at least three folds.
        budget: share of the training mass that may move, in (0, 1]. By default the budget of the fit's callback, which
            the influence stores, otherwise 0.2.
        level: significance level of the test. By default the level of the fit's callback, otherwise 0.05.
        min_gain: relative gain (in units of mean absolute influence) below which an improvement is negligible. For
            categories that are not targets, the negligible loss below their floor.
        targets: category or categories that must gain, by name or number. All by default.
        floors: least relative gains of the other categories: one number, K numbers (those of targets are ignored), or
            some by name, such as ``{"shirt": -0.02}``. 0 (no loss) by default. A negative floor allows a loss.

    Returns:
        The verdict over the categories that have validation samples.

    Raises:
        ValueError: for unknown targets, for a budget, level, ``min_gain`` or floors out of range, or if no category has
            validation samples.
        InfeasibleError: if no weights satisfy all floors. The error names a category and its largest possible gain.
        LinearProgramError: if the solver fails.

    Example:
        >>> scores = np.random.default_rng(0).normal(size=(200, 2))
        >>> verdict = check_pareto(InfluenceMatrix(scores, np.arange(200) % 2, ["cat", "dog"]))
        >>> verdict.answer  # scores without folds cannot prove anything
        'not proven'
        >>> bool(verdict.headroom > 0.1)
        True

    Source: arXiv:2510.03950 for influence vectors and the hyperplane diagnostic. Headroom and its test are this
    package's own.
    """
    check_generalisation(influence)
    budget = influence.asked("budget", DEFAULT_BUDGET) if budget is None else budget
    level = influence.asked("level", DEFAULT_LEVEL) if level is None else level
    check_options(budget, level, min_gain)
    asked, present = read_demand(influence, targets, floors), influence.present
    demand, scores, scale = asked.over(present), influence.scores[:, present], influence.scale[present]
    admissible = AdmissibleSet(influence.labels, budget, influence.weights)
    try:
        solved = headroom(scores, scale, admissible, demand)
    except FloorsError as error:
        raise InfeasibleError(floors_out_of_reach(influence, admissible, demand)) from error
    held_out = _held_out(influence, scale, admissible, demand=demand, margin=min_gain, start=solved.prices)
    return ParetoVerdict(
        category_names=influence.category_names,
        headroom=solved.value,
        held_out_gain=_spread(held_out.mean, present),
        standard_error=_spread(held_out.standard_error, present),
        p_value=held_out.p_value,
        degrees_of_freedom=_spread(held_out.degrees_of_freedom, present),
        support=_support(influence),
        prices=_spread(solved.prices, present, 0.0),
        alone=_spread(gains_alone(scores, scale, admissible), present),
        together=_spread(predicted_gain(scores, solved.weights, admissible.present) / scale, present),
        correlation=_spread(_spread(correlation(scores), present).T, present),
        scale=_spread(scale, present),
        drift=_spread(admissible.present @ scores.astype(np.float64) / (len(scores) * scale), present),
        explained_variance_ratio=explained_variance_ratio(scores),
        hyperplane_distance=hyperplane_distance(scores),
        regions=regions(scores),
        present=present,
        budget=budget,
        level=level,
        min_gain=min_gain,
        targets=asked.targets & present,
        floors=np.where(asked.targets, np.nan, asked.floors),
        moved=admissible.moved,
    )


def _support(influence: InfluenceMatrix) -> Float:
    """Number of validation samples per category, (K,). NaN if the matrix does not store it."""
    support = influence.support
    if support is None and influence.fold_support is not None:
        support = influence.fold_support.sum(axis=0)
    return np.full(len(influence.category_names), np.nan if support is None else support, dtype=np.float64)


def _held_out(
    influence: InfluenceMatrix, scale: Float, admissible: AdmissibleSet, *, demand: Demand, margin: float, start: Float
) -> HeldOutGain:
    """Cross-fitted gains of the categories present, NaN with too few folds for a test."""
    scores, support, present = influence.fold_scores, influence.fold_support, influence.present
    if scores is None or support is None or len(scores) < LEAST_FOLDS:
        unknown = np.full(len(scale), np.nan)
        return HeldOutGain(unknown[None], unknown, unknown, unknown, unknown)
    if not present.all():  # otherwise avoid the copy
        scores, support = scores[:, :, present], support[:, present]
    return cross_fit(scores, support, scale, admissible, demand=demand, margin=margin, start=start)


def check_options(budget: float, level: float, min_gain: float = 0.0) -> None:
    """Raise a ValueError for a budget, a level or a negligible gain out of range."""
    check_budget(budget)
    checked_number(level, "level must be a significance level in (0, 1)", lambda p: 0 < p < 1)
    checked_number(min_gain, "min_gain must be a relative gain of at least 0", lambda gain: gain >= 0)


def _spread(values: Float, present: np.ndarray, fill: float = np.nan) -> Float:
    """Expand values of the categories present to all K, (K, ...)."""
    spread = np.full((len(present), *values.shape[1:]), fill)
    spread[present] = values
    return spread
