"""Reads the results of a run from disk."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lightning_pareto.evaluation.change import ClasswiseChange
from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.evaluation.result import ParetoResult
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.pareto.result import ParetoVerdict
from lightning_pareto.report.analysis import measured_in, step_of
from lightning_pareto.report.previews import SamplePreviews
from lightning_pareto.reweighting.weights import SampleWeights
from lightning_pareto.storage.artifacts import ArtifactError
from lightning_pareto.storage.run_folders import (
    INFLUENCE_FILE,
    RESULT_FILE,
    SAMPLES_FILE,
    VERDICT_FILE,
    WEIGHTS_FILE,
    contains_results,
    find_runs,
    influence_of_search,
)

T = TypeVar("T")

has_report = partial(contains_results, names=(VERDICT_FILE, RESULT_FILE))
"""Whether the folder of a run contains a verdict or a result."""


@dataclass(frozen=True, eq=False)
class Run:
    """The results to report, at least a verdict or a result of a search.

    Raises:
        ValueError: with neither verdict nor result, or if the results have different categories.
    """

    verdict: ParetoVerdict | None = None
    influence: InfluenceMatrix | None = None
    weights: SampleWeights | None = None
    result: ParetoResult | None = None
    previews: SamplePreviews | None = None
    outcome: Outcome | None = None
    after_step: Outcome | None = None

    def __post_init__(self) -> None:
        if self.verdict is None and self.result is None:
            raise ValueError("expected a verdict, a result or both, found neither: verdict = check_pareto(influence)")
        parts: dict[str, Any] = {"verdict": self.verdict, "result": self.result, "influence": self.influence}
        parts |= {"outcome": self.outcome, "step": self.after_step}
        names = {what: tuple(part.category_names or ()) for what, part in parts.items() if part is not None}
        if len(set(names.values())) > 1:
            raise ValueError(f"expected results of one run, found different categories: {names}")

    @property
    def category_names(self) -> tuple[str, ...]:
        """The K categories."""
        part = self.verdict or self.result
        assert part is not None
        return part.category_names

    @property
    def step(self) -> ClasswiseChange | None:
        """What a small step changed, see :class:`Analysis`."""
        return None if self.verdict is None else step_of(self.verdict, self.outcome, self.after_step)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the training labels. Empty if the categories are not the classes."""
        if self.previews is not None and self.previews.class_names:
            return self.previews.class_names
        return () if self.influence is None else self.influence.class_names


def read_run(folder: Path) -> Run:
    """Read the results in a folder, in its ``pareto`` folder, or of the newest run below it that has results.

    A search in the folder or in its ``pareto_tuner`` folder is read too, if its categories are the same.

    Raises:
        FileNotFoundError: if there is no verdict and no result.
        ArtifactError: if a file is damaged, or the results are from different runs.
    """
    home = results_folder_of(folder)
    places = (home, folder, folder / "pareto_tuner")
    search = next((place for place in places if (place / RESULT_FILE).is_file()), home)
    searched = influence_of_search(home)
    analysed = home if searched is None or (home / INFLUENCE_FILE).is_file() else searched.parent
    verdict = _read(home / VERDICT_FILE, ParetoVerdict.load)
    result = _read(search / RESULT_FILE, ParetoResult.load)
    if search != home and verdict and result and result.category_names != verdict.category_names:
        result = None
    weights = _read(home / WEIGHTS_FILE, SampleWeights.load) or (result.weights if result else None)
    try:
        influence = _read(analysed / INFLUENCE_FILE, InfluenceMatrix.load)
        previews = _read(analysed / SAMPLES_FILE, SamplePreviews.load)
        return Run(verdict, influence, weights, result, previews, *measured_in(home))
    except ValueError as error:
        raise error if isinstance(error, ArtifactError) else ArtifactError(f"{home}: {error}") from error


def results_folder_of(folder: Path) -> Path:
    """The folder of the results, found from a folder above it or from the path of one of the results.

    Raises:
        FileNotFoundError: if there are no results.
        ArtifactError: for a file that is not a result.
    """
    if folder.is_file():
        if folder.suffix != ".safetensors":
            raise ArtifactError(f"expected the folder of a run or one of its .safetensors files, found {folder}")
        folder = folder.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    runs, _ = find_runs(folder, has_report)
    if not runs:
        raise FileNotFoundError(
            f"no results in {folder} or below it: neither {VERDICT_FILE}, which ParetoCallback writes after a fit, "
            f"nor {RESULT_FILE}, which ParetoTuner writes. Pass the run's log directory or the callback's dirpath"
        )
    return runs[0]


def _read(path: Path, load: Callable[[Path], T]) -> T | None:
    return load(path) if path.is_file() else None
