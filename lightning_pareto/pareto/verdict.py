"""The verdict: can every category still gain, and how sure is that?"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

from lightning_pareto.artifacts import load_artifact, save_artifact
from lightning_pareto.influence.matrix import InfluenceMatrix, check_type
from lightning_pareto.pareto.admissible import AdmissibleSet, Float, check_budget, column_scale
from lightning_pareto.pareto.headroom import headroom
from lightning_pareto.pareto.hyperplane import (
    Regions,
    correlation,
    explained_variance_ratio,
    hyperplane_distance,
    regions,
)
from lightning_pareto.pareto.significance import LEAST_FOLDS, HeldOutGain, cross_fit
from lightning_pareto.pareto.tradeoff import compromise, exchange_rates
from lightning_pareto.pareto.wording import describe

Answer = Literal["yes", "no", "not proven"]

UNDERFITTED = 0.15
"""Mean drift over the categories above which a model counts as underfitted, if none drifts down.

On three classes it was 0.24 and more for random networks, 0.16 after one epoch, 0.12 after two and below 0.1 later on;
on noisy digits at the best epoch by validation 0.17 at most, with some class below zero.
"""


@dataclass(frozen=True, eq=False, repr=False)
class ParetoVerdict:
    """Whether every category can still gain from reweighting the training data, to first order.

    Gains are relative: in units of each category's mean absolute influence ``scale``. Multiply by ``scale`` for the
    predicted drop of the measure.

    Do not trust it where the model is far from a minimum of its training loss, or beyond small changes: it is first
    order at one model. A *yes* says that a small step helps; only a second fit shows what a large one does.

    Attributes:
        class_names: the K categories.
        headroom: in-sample h, the largest relative gain that all categories can have at once. Nearly always above zero
            and proof of nothing alone.
        held_out_gain: cross-fitted relative gain of each category, (K,); NaN with fewer than three folds or without
            validation samples.
        standard_error: of the held-out gain, with the correlation of the folds, (K,); infinite where a category is in
            fewer than three folds.
        p_value: of H0 "some category does not gain"; NaN with fewer than three folds. It rests on the normal
            approximation of fold means: do not trust it with only a few validation samples of a category.
        prices: trade-off prices λ of the categories, ≥ 0 with sum 1, (K,): the categories that hold the others back.
        degrees_of_freedom: of each category's error, (K,); NaN where there is none.
        support: validation samples of each category, (K,); NaN if the influence matrix does not say.
        alone: the largest relative gain, in sample, that each category could have if the others did not matter, (K,).
        together: its relative gain, in sample, under the weights of the headroom, (K,).
        correlation: of the influence on one category with that on another, (K, K); negative where they trade off.
        scale: s_k, (K,).
        drift: relative gain of plain further training, ``mean_i P_ik / s_k``, (K,). Near or below zero for some
            category once a model has converged; clearly above zero for all of them while it is underfitted.
        explained_variance_ratio: principal axes of the influence vectors, falling, (K,).
        hyperplane_distance: share of the influence vectors off the plane Σ_k P_ik = 0, in [0, 1].
        regions: jointly beneficial, jointly harmful and trade-off samples.
        present: which categories have validation samples and take part, (K,).
        budget: share of the training mass that may move.
        level: of the test.
        min_gain: relative gain below which an improvement is negligible.
    """

    class_names: tuple[str, ...]
    headroom: float
    held_out_gain: Float
    standard_error: Float
    p_value: float
    prices: Float
    degrees_of_freedom: Float = field(repr=False)
    support: Float = field(repr=False)
    alone: Float
    together: Float
    correlation: Float = field(repr=False)
    scale: Float
    drift: Float
    explained_variance_ratio: Float = field(repr=False)
    hyperplane_distance: float
    regions: Regions = field(repr=False)
    present: np.ndarray = field(repr=False)
    budget: float
    level: float
    min_gain: float

    @property
    def improvable(self) -> bool:
        """Significant, and the least held-out gain is more than negligible."""
        return bool(self.p_value <= self.level and np.nanmin(self.held_out_gain) > self.min_gain)

    @property
    def underfitted(self) -> bool:
        """Plain further training would help every category too: a *yes* may mean no more than that."""
        return bool(np.nanmin(self.drift) > 0 and np.nanmean(self.drift) > UNDERFITTED)

    @property
    def answer(self) -> Answer:
        """``"yes"``; ``"no"`` if even the optimistic in-sample headroom is negligible; else ``"not proven"``."""
        if self.improvable:
            return "yes"
        return "no" if self.headroom <= self.min_gain else "not proven"

    @property
    def cost_of_compromise(self) -> Float:
        """In-sample relative gain that each category gives up for the others' sake, (K,)."""
        return self.alone - self.together

    @property
    def exchange_rates(self) -> Float:
        """How much category b loses for a unit more of category a, at the margin, (K, K) as [a, b].

        In relative gain, see :func:`lightning_pareto.pareto.tradeoff.exchange_rates`; NaN where b has gain to spare.
        """
        return exchange_rates(self.prices)

    @property
    def lower_bound(self) -> Float:
        """One-sided lower confidence bound of every held-out gain at ``level``, (K,); NaN or −∞ where unknown."""
        return self.held_out_gain - self._quantile * self.standard_error

    @property
    def worst_interval(self) -> tuple[float, float]:
        """Confidence interval of the least held-out gain, at ``level`` on either side.

        The least lower bound is a valid bound for the least gain, as it is one for the category that has it; the least
        upper bound likewise.
        """
        upper = self.held_out_gain + self._quantile * self.standard_error
        return float(np.nanmin(self.lower_bound)), float(np.nanmin(upper))

    @property
    def samples_needed(self) -> Float:
        """About how many validation samples of each category would prove its gain, were it what it seems, (K,).

        The error falls with the square root of their number. ∞ where nothing is gained held out, NaN if unknown.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = self._quantile * self.standard_error / self.held_out_gain
            needed = np.ceil(self.support * ratio**2)
        return np.where(self.held_out_gain > 0, needed, np.where(np.isnan(self.held_out_gain), np.nan, np.inf))

    @property
    def _quantile(self) -> Float:
        quantile: Float = stats.t.isf(self.level, self.degrees_of_freedom)
        return quantile

    def __repr__(self) -> str:
        return f"ParetoVerdict({self.answer!r}, headroom={self.headroom:.3f}, p_value={self.p_value:.2g})"

    def __str__(self) -> str:
        return describe(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the verdict to ``path`` (safetensors), whole or not at all."""
        numbers = {
            name: getattr(self, name)
            for name in ("headroom", "p_value", "hyperplane_distance", "budget", "level", "min_gain")
        }
        arrays = {name: getattr(self, name) for name in _ARRAYS} | {"regions": self.regions.sign}
        return save_artifact(path, "verdict", arrays, {"class_names": list(self.class_names), **numbers})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ParetoVerdict":
        """Read a verdict written by :meth:`save`.

        Raises:
            ArtifactError: if the file is not a whole verdict artifact.
        """
        arrays, metadata = load_artifact(path, "verdict")
        sign = arrays.pop("regions")
        names = tuple(metadata.pop("class_names"))
        fields: dict[str, Any] = {**arrays, **metadata}
        return cls(class_names=names, regions=Regions(sign), **fields)


_ARRAYS = (
    "held_out_gain",
    "standard_error",
    "degrees_of_freedom",
    "support",
    "prices",
    "alone",
    "together",
    "correlation",
    "scale",
    "drift",
    "explained_variance_ratio",
    "present",
)


def check_pareto(
    influence: InfluenceMatrix, *, budget: float = 0.2, level: float = 0.05, min_gain: float = 0.01
) -> ParetoVerdict:
    """Say whether reweighting the training data can still improve every category.

    The headroom LP ``h = max_w min_k gain_k(w)/s_k`` over mass-preserving weights is solved on all folds of the
    validation set but one and evaluated on that one, for every fold; an intersection-union test over the categories
    asks whether all of them gain. Its errors allow for the correlation of the folds. With fewer than three folds
    nothing is proven: the verdict then says what holds in sample only.

    Args:
        influence: the influence matrix; with at least three folds if anything is to be proven.
        budget: share of the training mass that may move, in (0, 1].
        level: of the test.
        min_gain: relative gain (in units of mean absolute influence) below which an improvement is negligible.

    Returns:
        The verdict over the categories that have validation samples.

    Raises:
        ValueError: for a budget or level out of range, or if no category has validation samples.
        LinearProgramError: if the solver fails.

    Source: arXiv:2510.03950 for influence vectors and the hyperplane diagnostic; headroom and its test are this
    package's.
    """
    check_type(influence)
    check_options(budget, level)
    present = influence.present
    if not present.any():
        raise ValueError("no category has validation samples")
    scores = influence.scores[:, present]
    scale = column_scale(scores)
    admissible = AdmissibleSet(influence.labels, budget)
    solved = headroom(scores, scale, admissible)
    gains = compromise(scores, scale, admissible, solved)
    gain = error = degrees = np.full(int(present.sum()), np.nan)
    p_value = np.nan
    held_out = _held_out(influence, scale, admissible)
    if held_out is not None:
        gain, error, p_value = held_out.mean, held_out.standard_error, held_out.p_value
        degrees = held_out.degrees_of_freedom
    support = np.full(len(present), np.nan) if influence.support is None else influence.support.astype(np.float64)
    return ParetoVerdict(
        class_names=influence.names,
        headroom=solved.value,
        held_out_gain=_spread(gain, present),
        standard_error=_spread(error, present),
        p_value=float(p_value),
        degrees_of_freedom=_spread(degrees, present),
        support=support,
        prices=_spread(solved.prices, present, 0.0),
        alone=_spread(gains.alone, present),
        together=_spread(gains.together, present),
        correlation=_spread(_spread(correlation(scores), present).T, present),
        scale=_spread(scale, present),
        drift=_spread(scores.mean(axis=0, dtype=np.float64) / scale, present),
        explained_variance_ratio=explained_variance_ratio(scores),
        hyperplane_distance=hyperplane_distance(scores),
        regions=regions(scores),
        present=present,
        budget=budget,
        level=level,
        min_gain=min_gain,
    )


def _held_out(influence: InfluenceMatrix, scale: Float, admissible: AdmissibleSet) -> HeldOutGain | None:
    """Cross-fitted gains of the categories present; None with too few folds for a test."""
    scores, support, present = influence.fold_scores, influence.fold_support, influence.present
    if scores is None or support is None or len(scores) < LEAST_FOLDS:
        return None
    if not present.all():  # else spare the copy
        scores, support = scores[:, :, present], support[:, present]
    return cross_fit(scores, support, scale, admissible)


def check_options(budget: float, level: float) -> None:
    """Raise a ValueError for a budget or a level out of range."""
    check_budget(budget)
    if not 0 < level < 1:
        raise ValueError(f"level is that of a test, in (0, 1), found {level}")


def _spread(values: Float, present: np.ndarray, fill: float = np.nan) -> Float:
    """Put values of the present categories back into rows over all K."""
    spread = np.full((len(present), *values.shape[1:]), fill)
    spread[present] = values
    return spread
