"""What an analysis found out, in the order in which its reader needs it."""

from dataclasses import dataclass
from pathlib import Path

from lightning_pareto.display.warning import warn
from lightning_pareto.evaluation.change import ClasswiseChange
from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.pareto.result import ParetoVerdict
from lightning_pareto.report import story
from lightning_pareto.storage.artifacts import ArtifactError
from lightning_pareto.storage.run_folders import INFLUENCE_FILE, OUTCOME_FILE, STEP_FILE, VERDICT_FILE


@dataclass(frozen=True, eq=False, repr=False)
class Analysis:
    """What the callback found out after a fit, or :func:`analyse` about a trained model.

    It prints itself, also in a notebook: the answer, the accuracy of each class today, what one small step did to it,
    what to do next, and then the evidence.

    Attributes:
        influence: influence of every training sample on every category.
        verdict: whether every category can still gain.
        folder: where the results are kept; None if they could not be written.
        outcome: the model's predictions of the validation samples; None if they are unknown.
        after_step: those after one small second-order step on the weighted training loss, each by a model whose step
            does not know the sample; None if it was not measured.

    Example:
        >>> from lightning_pareto import check_pareto
        >>> influence = InfluenceMatrix([[1.0, -1.0], [0.5, 2.0]], [0, 1])
        >>> Analysis(influence, check_pareto(influence, budget=0.2), folder=None)
        Analysis('no')
    """

    influence: InfluenceMatrix
    verdict: ParetoVerdict
    folder: Path | None
    outcome: Outcome | None = None
    after_step: Outcome | None = None

    @property
    def step(self) -> ClasswiseChange | None:
        """What the small step changed, with paired tests; None if it was not measured.

        It is measured at half of the verdict's level for gains and for harm each. A whole fit with weights moves much
        further than a step, so its gains may be larger, and it may harm a class that the step does not.
        """
        return step_of(self.verdict, self.outcome, self.after_step)

    def __repr__(self) -> str:
        return f"Analysis({self.verdict.answer!r})"

    def __str__(self) -> str:
        return story.text(self)

    def _repr_html_(self) -> str:
        return story.html(self)


def step_of(verdict: ParetoVerdict, before: Outcome | None, after: Outcome | None) -> ClasswiseChange | None:
    """The change between two outcomes at the level of a verdict; None if one of them is unknown."""
    return None if before is None or after is None else ClasswiseChange(before, after, level=verdict.level)


def read_analysis(folder: Path) -> Analysis:
    """Read an analysis from the folder of its results.

    Raises:
        ArtifactError: if a file is damaged.
        OSError: if influence or verdict cannot be read.
    """
    influence, verdict = InfluenceMatrix.load(folder / INFLUENCE_FILE), ParetoVerdict.load(folder / VERDICT_FILE)
    return Analysis(influence, verdict, folder, *measured_in(folder))


def measured_in(folder: Path) -> list[Outcome | None]:
    """The outcome and that after the small step in a folder of results; None where there is none or it is damaged."""
    return [_optional(folder / name) for name in (OUTCOME_FILE, STEP_FILE)]


def _optional(path: Path) -> Outcome | None:
    try:
        return Outcome.load(path) if path.is_file() else None
    except ArtifactError as error:  # the rest is worth more
        warn(f"what was measured is left out: {error}")
        return None
