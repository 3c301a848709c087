"""The options of a search for a better second fit, and their cost in epochs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lightning_pareto.arguments import checked_count, checked_number
from lightning_pareto.candidates import HeadRefit, InTurn, WeightedSteps
from lightning_pareto.candidates.evidence import Candidate, Propose, as_candidates
from lightning_pareto.evaluation.change import Tolerance, tolerance_of
from lightning_pareto.pareto.admissible import check_budget
from lightning_pareto.pareto.demand import Targets

Mode = Literal["direct", "course_correction"]
SearchName = Literal["mass_preserving", "genetic"]
Refit = Literal["scratch", "continue", "epoch"]

CANDIDATES: tuple[Candidate, ...] = (WeightedSteps(), HeadRefit(), InTurn(WeightedSteps(), HeadRefit()))
"""What a search tries before it spends another fit."""

KINDS = 2
"""Number of kinds of weights that may get fits: with the masses of the classes, and with more for weak classes."""

GENETIC = 4
"""Epochs that a genetic search spends on trials by default, in ordinary fits."""


@dataclass(frozen=True)
class Epochs:
    """How the epochs of a search are divided.

    Attributes:
        limit: epochs of all trials together.
        fits: epochs of the fits that judge one kind of weights.
        last_fit: epochs of a fit that trains on all validation data.
    """

    limit: int
    fits: int
    last_fit: int

    def left(self, spent: int) -> int:
        """Epochs that may be spent before weights are judged, after so many were spent; < 0 for no such fits."""
        return self.limit - spent - self.fits - self.last_fit


@dataclass(frozen=True, kw_only=True)
class TuningOptions:
    """The options of :class:`ParetoTuner`, which describes them."""

    mode: Mode = "direct"
    targets: Targets = None
    search: SearchName = "mass_preserving"
    refit: Refit | None = None
    max_epochs_spent: int | None = None
    budget: float = 0.3
    max_weight: float = 2.0
    epsilon: float = 0.0
    population: int = 8
    level: float = 0.05
    tolerance: Tolerance = 0.0
    include_validation: bool = False
    candidates: Sequence[Candidate | Propose] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check_one_of("mode", self.mode, Mode)
        _check_one_of("search", self.search, SearchName)
        if self.refit is not None:
            _check_one_of("refit", self.refit, Refit)
        check_budget(self.budget)
        tolerance_of(self.tolerance)
        checked_number(self.level, "level must be in (0, 1)", lambda x: 0 < x < 1)
        checked_number(self.max_weight, "max_weight must be at least 1", lambda x: x >= 1)
        checked_number(self.epsilon, "epsilon must be at least 0", lambda x: x >= 0)
        checked_count(self.population, "population must be a whole number, at least 2", least=2)
        if checked_count(self.seed, "seed must be a whole number in [0, 2**32)") >= 2**32:
            raise ValueError(f"seed must be a whole number in [0, 2**32), found {self.seed}")
        if self.max_epochs_spent is not None:
            checked_count(self.max_epochs_spent, "max_epochs_spent must be a number of epochs, at least 1", least=1)
        if self.candidates is not None:
            as_candidates(self.candidates)
        if self.include_validation and self.last_fit != "scratch":
            raise ValueError('include_validation makes one more fit from scratch: use refit="scratch"')

    @property
    def last_fit(self) -> Refit:
        """Which fits are compared at the end."""
        return self.refit or ("scratch" if self.search == "mass_preserving" and self.mode == "direct" else "epoch")

    @property
    def cheap(self) -> tuple[Candidate, ...]:
        """The candidates to try before weights. By default none where an epoch is compared, as the paper does."""
        if self.candidates is not None:
            return as_candidates(self.candidates)
        return CANDIDATES if self.search == "mass_preserving" and self.mode == "direct" else ()

    def divide(self, length: int, starts_from_checkpoint: bool) -> Epochs:
        """Divide the epochs, before any is spent.

        Args:
            length: epochs of an ordinary fit.
            starts_from_checkpoint: whether there is a first fit already.

        Raises:
            ValueError: if they do not suffice for an ordinary fit and reweighted ones.
        """
        last = 1 if self.last_fit == "epoch" else length
        first = 0 if starts_from_checkpoint else length
        if self.last_fit != "scratch" or starts_from_checkpoint:  # else the first fit is the ordinary one
            first += last
        first += 2 * length * self.include_validation  # without weights: with either half of it
        genetic = self.search == "genetic"
        fits = last * (1 if genetic else 2)
        last_fit = length * self.include_validation
        others = sum(not isinstance(candidate, (WeightedSteps, HeadRefit, InTurn)) for candidate in self.cheap)
        enough = first + fits * (others + (1 if genetic else KINDS)) + GENETIC * length * genetic + last_fit
        limit = enough if self.max_epochs_spent is None else self.max_epochs_spent
        epochs = Epochs(limit, fits, last_fit)
        if epochs.left(first) < genetic:
            raise ValueError(
                f"max_epochs_spent={limit} does not suffice for an ordinary fit and reweighted ones. Use at least "
                f"{first + fits + last_fit + genetic}, better {enough}"
            )
        return epochs


def _check_one_of(name: str, value: Any, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {get_args(choices)}, found {value!r}")
