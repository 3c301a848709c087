"""The results of the last fit, wherever it ran."""

from pathlib import Path
from typing import Any

from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.integration.trainer.processes import SharedMessage
from lightning_pareto.pareto.verdict import ParetoVerdict
from lightning_pareto.report.analysis import Analysis, read_analysis
from lightning_pareto.storage.run_folders import INFLUENCE_FILE, VERDICT_FILE


class LastFit:
    """The results of the last fit: in memory if this process computed them, else on disk."""

    def __init__(self) -> None:
        self._influence: InfluenceMatrix | None = None
        self._analysis: Analysis | None = None
        self._error: Exception | None = None
        self._fit = 0  # number of the fit that they belong to
        self._message = SharedMessage()

    def __getstate__(self) -> dict[str, Any]:
        """Keep only the text of an error, whose class may not survive pickling."""
        error = self._error and RuntimeError(f"{type(self._error).__name__}: {self._error}")
        return {**self.__dict__, "_error": error}

    def begin_fit(self, first: bool) -> None:
        """Forget the previous fit.

        Args:
            first: True in exactly one of the processes that a strategy starts on a machine.
        """
        self._forget()
        if first:
            self._message.begin_fit()

    def keep_influence(self, influence: InfluenceMatrix) -> None:
        """Keep the influence that this process has computed, whatever happens to the verdict."""
        self._fit = self._message.fits
        self._influence = influence

    def keep_analysis(self, analysis: Analysis) -> None:
        """Keep the verdict on that influence, and what was measured."""
        self._analysis = analysis

    def keep_error(self, error: Exception) -> None:
        """Keep the reason why a result is missing."""
        self._fit = self._message.fits
        self._error = error

    def announce(self, folder: Path) -> None:
        """Tell the other processes where the results are."""
        self._message.put(str(folder.resolve()))

    @property
    def folder(self) -> Path | None:
        """Where the results are; None if they are not on disk."""
        return Path(found) if (found := self._message.get()) else None

    @property
    def influence(self) -> InfluenceMatrix:
        """The influence matrix; RuntimeError if there is none."""
        self._forget_if_old()
        return self._influence or InfluenceMatrix.load(self._file(INFLUENCE_FILE))

    @property
    def analysis(self) -> Analysis:
        """Influence, verdict and what was measured; RuntimeError if there is no verdict."""
        self._forget_if_old()
        return self._analysis or read_analysis(self._file(VERDICT_FILE).parent)

    @property
    def verdict(self) -> ParetoVerdict:
        """The verdict alone; RuntimeError if there is none."""
        self._forget_if_old()
        return self._analysis.verdict if self._analysis else ParetoVerdict.load(self._file(VERDICT_FILE))

    def _forget(self) -> None:
        self._influence = self._analysis = self._error = None

    def _forget_if_old(self) -> None:
        """Forget what is in memory if a later fit has begun in other processes."""
        if self._fit != self._message.fits:
            self._forget()

    def _file(self, name: str) -> Path:
        """Path of a result that another process computed."""
        if self._error is not None:
            what = name.removesuffix(".safetensors")
            raise RuntimeError(f"the last fit left no result ({what}) because of the error above") from self._error
        if self.folder is None:
            raise RuntimeError(
                "there is no result: fit a Trainer with this callback first, and look at its warnings. There is also "
                "none with analyse=False or fast_dev_run, or if the fit trained nothing or was interrupted"
            )
        path = self.folder / name
        if not path.is_file():
            raise RuntimeError(
                f"there is no {name} in {self.folder}, where the last fit wrote its results. It could not be written "
                "(see the warnings), or was removed"
            )
        return path
