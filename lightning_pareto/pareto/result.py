"""The verdict: what was found, what follows from it, in words and on disk."""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

from lightning_pareto.display.columns import chosen_cells
from lightning_pareto.display.notebook import data_frame, html_table
from lightning_pareto.pareto.admissible import Float
from lightning_pareto.pareto.columns import COLUMNS, all_values
from lightning_pareto.pareto.headroom import exchange_rates
from lightning_pareto.pareto.hyperplane import Regions
from lightning_pareto.pareto.significance import ENOUGH_SAMPLES, LEAST_SAMPLES
from lightning_pareto.pareto.wording import NO_FOLDS, TEXT, UNDERFITTED, describe, headline
from lightning_pareto.storage.artifacts import consistent_parts, load_artifact, save_artifact

Answer = Literal["yes", "no", "not proven", "underfitted"]

LEAST_DRIFT = 0.15
"""Mean drift over the categories above which a model counts as underfitted, if no category drifts down.

On three classes it was 0.24 and more for random networks, 0.16 after one epoch, 0.12 after two and below 0.1 later.
On noisy digits at the best epoch by validation it was 0.17 at most, with some class below zero.
"""


@dataclass(frozen=True, eq=False, repr=False)
class ParetoVerdict:
    """Whether reweighting the training data can still improve the categories asked for, to first order.

    By default every category has to gain. With targets, only those have to gain while the others hold their floors.

    Gains are relative: in units of each category's mean absolute influence ``scale``. Multiply by ``scale`` for the
    predicted drop of the measure.

    Do not trust it where the model is far from a minimum of its training loss, or for large changes: it is a
    first-order statement about one model. A *yes* says that a small step helps. Only a second fit shows what a large
    step does.

    Where nothing is proven, leave the weights alone. On clean Fashion-MNIST (five draws, 20 refits) the weights of the
    headroom raised the loss of refits by 0.024. The same weights shuffled within each class, which know nothing, raised
    it by 0.011.

    Attributes:
        category_names: names of the K categories.
        headroom: in-sample h, the largest relative gain that all targets can have at once. It is nearly always above
            zero and proves nothing alone.
        held_out_gain: cross-fitted relative gain of each category, (K,); NaN with fewer than three folds or without
            validation samples.
        standard_error: standard error of the held-out gain, allowing for the correlation of the folds, (K,); infinite
            where a category is in fewer than three folds. With few samples it is at least what the spread of the other
            categories implies.
        p_value: p-value of H0 "some target does not gain, or another category falls below its floor by ``min_gain``";
            NaN with fewer than three folds, 1 where a category has fewer than 10 validation samples or all have fewer
            than 60. Below some 60 samples of a category, a loss that hits one sample in twenty can be missed.
        prices: shadow prices λ of the categories, ≥ 0 with sum 1 over the targets, (K,). They name the categories that
            hold the targets back. For a category with a floor: what lowering the floor by 1 adds to the headroom.
        degrees_of_freedom: degrees of freedom of each standard error, (K,); NaN where there is none.
        support: validation samples of each category, (K,); NaN if the influence matrix does not say.
        alone: largest relative gain in sample that each category could have if the others did not matter, (K,).
        together: relative gain in sample of each category under the weights of the headroom, (K,).
        correlation: correlation between the influence on one category and on another, (K, K); negative where they trade
            off.
        scale: mean absolute influence s_k, (K,).
        drift: relative gain of plain further training, ``mean_i P_ik / s_k``, (K,). Near or below zero for some
            category once a model has converged; clearly above zero for all of them while it is underfitted.
        explained_variance_ratio: share of variance along each principal axis of the influence vectors, falling, (K,).
        hyperplane_distance: how far the influence vectors are off the plane Σ_k P_ik = 0, in [0, 1].
        regions: jointly beneficial, jointly harmful and trade-off samples.
        present: which categories have validation samples and take part, (K,).
        budget: share of the training mass that may move.
        level: significance level of the test.
        min_gain: relative gain below which an improvement is negligible, and so is a loss below a floor.
        targets: which categories have to gain, (K,).
        floors: least relative gain asked of each of the others, (K,); NaN for targets.
        moved: share of the training mass that the weights of the fit have moved already; it counts towards the budget.

    Raises:
        ValueError: if the arrays do not fit together.
    """

    category_names: tuple[str, ...]
    headroom: float
    held_out_gain: Float
    standard_error: Float
    p_value: float
    prices: Float
    degrees_of_freedom: Float
    support: Float
    alone: Float
    together: Float
    correlation: Float
    scale: Float
    drift: Float
    explained_variance_ratio: Float
    hyperplane_distance: float
    regions: Regions
    present: np.ndarray
    budget: float
    level: float
    min_gain: float
    targets: np.ndarray
    floors: Float
    moved: float = 0.0

    def __post_init__(self) -> None:
        k = len(self.category_names)
        shapes = {"correlation": (k, k), "explained_variance_ratio": (int(np.sum(self.present)),)}
        for name in _ARRAYS:
            found, kind = np.asarray(getattr(self, name)), bool if name in _FLAGS else np.floating
            shape = shapes.get(name, (k,))
            if found.shape != shape or not np.issubdtype(found.dtype, kind):
                raise ValueError(f"{name} must be {shape} of {kind.__name__}, found {found.shape} of {found.dtype}")
        for name in _NUMBERS:
            if not isinstance(getattr(self, name), (float, int)):
                raise ValueError(f"{name} must be a number, found {getattr(self, name)!r:.40}")
        if not (self.present & self.targets).any():
            raise ValueError("a verdict needs at least one target with validation samples")

    @property
    def improvable(self) -> bool:
        """Whether the test is significant and the least held-out gain of a target is more than negligible.

        It is also True for an underfitted model, for which this says little. Act on ``answer == "yes"``.
        """
        return bool(self.p_value <= self.level and np.nanmin(self.held_out_gain[self.targets]) > self.min_gain)

    @property
    def bar(self) -> Float:
        """What each held-out gain has to exceed, (K,): 0 for a target, ``min_gain`` below its floor for another."""
        return np.where(self.targets, 0.0, self.floors - self.min_gain)

    @property
    def underfitted(self) -> bool:
        """Whether plain further training would help every category too: a *yes* may mean no more than that."""
        return bool(np.nanmin(self.drift) > 0 and np.nanmean(self.drift) > LEAST_DRIFT)

    @property
    def answer(self) -> Answer:
        """The verdict in a word or two.

        ``"yes"`` if it is :attr:`improvable`, but ``"underfitted"`` if it is that, too. ``"no"`` if even the optimistic
        in-sample headroom is negligible. Otherwise ``"not proven"``.
        """
        if self.improvable:
            return "underfitted" if self.underfitted else "yes"
        return "no" if self.headroom <= self.min_gain else "not proven"

    @property
    def worst(self) -> int:
        """Number of the target with the least held-out gain, which must be known."""
        return int(np.nanargmin(np.where(self.targets, self.held_out_gain, np.nan)))

    @property
    def cost_of_compromise(self) -> Float:
        """Relative gain in sample that each category gives up for the others, (K,)."""
        return self.alone - self.together

    @property
    def exchange_rates(self) -> Float:
        """How much category b loses for one more unit of category a, at the margin, (K, K) as [a, b].

        In relative gain, see :func:`lightning_pareto.pareto.headroom.exchange_rates`; NaN where b has gain to spare.
        """
        return exchange_rates(self.prices)

    @property
    def lower_bound(self) -> Float:
        """One-sided lower confidence bound of each held-out gain at ``level``, (K,); NaN or −∞ where unknown."""
        proves = (self.support >= LEAST_SAMPLES) & (np.nansum(self.support) >= ENOUGH_SAMPLES)
        bound = self.held_out_gain - self._quantile * self.standard_error
        return np.where(proves | np.isnan(bound), bound, -np.inf)

    @property
    def worst_interval(self) -> tuple[float, float]:
        """Confidence interval of the least held-out gain of a target, at ``level`` on either side.

        The least lower bound is a valid bound for the least gain, since it is one for the category that has it. The
        same holds for the least upper bound.
        """
        upper = self.held_out_gain + self._quantile * self.standard_error
        return float(np.nanmin(self.lower_bound[self.targets])), float(np.nanmin(upper[self.targets]))

    @property
    def samples_needed(self) -> Float:
        """Roughly how many validation samples of each category would prove its gain, if it is what it seems, (K,).

        The error falls with the square root of the number of samples, and fewer than ten never prove anything. ∞ where
        the held-out gain is not above its :attr:`bar`, NaN if unknown.
        """
        excess = self.held_out_gain - self.bar
        with np.errstate(divide="ignore", invalid="ignore"):
            needed = np.ceil(self.support * (self._quantile * self.standard_error / excess) ** 2)
        needed = np.where(np.isfinite(needed), np.maximum(needed, LEAST_SAMPLES), needed)
        return np.where(excess > 0, needed, np.where(np.isnan(excess), np.nan, np.inf))

    @property
    def _quantile(self) -> Float:
        quantile: Float = stats.t.isf(self.level, self.degrees_of_freedom)
        return quantile

    def __repr__(self) -> str:
        return f"ParetoVerdict({self.answer!r}, headroom={self.headroom:.3f}, p_value={self.p_value:.2g})"

    def __str__(self) -> str:
        return describe(self)

    def _repr_html_(self) -> str:
        test = NO_FOLDS if np.isnan(self.p_value) else f"Held out, p = {self.p_value:.2g} at level {self.level:g}."
        notes = [f"Headroom {self.headroom:.3f} in sample. {test}"]
        columns = {"category": self.category_names, **chosen_cells(COLUMNS, TEXT, self)}
        return html_table(headline(self), columns, [*notes, UNDERFITTED] if self.underfitted else notes)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` with a row for each category. An ImportError says how to install pandas."""
        return data_frame(all_values(self), self.category_names, "category")

    def plot(self, ax: Any = None) -> Any:
        """Draw gains and prices, see :func:`lightning_pareto.plot_headroom`."""
        from lightning_pareto.report.figures import plot_headroom

        return plot_headroom(self, ax)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the verdict to ``path`` (safetensors), whole or not at all."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        arrays = {name: getattr(self, name) for name in _ARRAYS} | {"regions": self.regions.sign}
        return save_artifact(path, "verdict", arrays, {"category_names": list(self.category_names), **numbers})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ParetoVerdict":
        """Read a verdict written by :meth:`save`. Any other file raises an :class:`ArtifactError`."""
        arrays, metadata = load_artifact(path, "verdict")
        with consistent_parts(path):
            parts: dict[str, Any] = {**arrays, **metadata, "regions": Regions(arrays["regions"])}
            return cls(**parts | {"category_names": tuple(map(str, metadata["category_names"]))})


_FLAGS = ("present", "targets")
_NUMBERS = ("headroom", "p_value", "hyperplane_distance", "budget", "level", "min_gain", "moved")
_OTHERS = ("category_names", "regions", *_NUMBERS)
_ARRAYS = tuple(each.name for each in fields(ParetoVerdict) if each.name not in _OTHERS)
