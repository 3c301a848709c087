"""Shows figures, tables and HTML pages in the loggers that can show them, with one function for each kind of logger."""

import csv
import io
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

from lightning_pareto.integration.trainer.namespaces import is_a

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = str | float | bool | None
"""A cell of a table. None is a missing value."""

TABLE, REPORT = "pareto/classes", "pareto/report"


@dataclass(frozen=True, eq=False, kw_only=True)
class Exhibits:
    """What to show in a logger.

    Attributes:
        figures: matplotlib figures by name.
        headings: headings of the table of classes.
        rows: its rows.
        report: a self-contained HTML page; None if there is none.
        step: the trainer's step.
    """

    figures: "Mapping[str, Figure]"
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    report: Path | None
    step: int

    @property
    def csv(self) -> str:
        """The table as CSV text. Missing values are empty."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.headings, *self.rows])
        return text.getvalue()


def show_with(logger: Any) -> Callable[[Any, Exhibits], None] | None:
    """The function that shows exhibits in this logger; None if it can only take metrics.

    TensorBoard, Weights & Biases and MLflow show them. For any other logger with a folder for the run (``log_dir``),
    such as CSVLogger, files are written there. Errors of the logger are not caught.

    Args:
        logger: a Lightning logger of either namespace, or your own.
    """
    if is_a(logger, TensorBoardLogger):
        return _in_tensorboard
    if is_a(logger, WandbLogger):
        return _in_wandb
    if is_a(logger, MLFlowLogger):
        return _in_mlflow
    return _in_folder if isinstance(getattr(logger, "log_dir", None), str) else None


def _in_tensorboard(logger: Any, shown: Exhibits) -> None:
    """Images, a Markdown table, and the path of the report, because TensorBoard cannot show pages."""
    for name, figure in shown.figures.items():
        logger.experiment.add_figure(name, figure, shown.step, close=False)
    lines = [shown.headings, ["---"] * len(shown.headings), *([_text(cell) for cell in row] for row in shown.rows)]
    logger.experiment.add_text(TABLE, "\n".join(map(_markdown, lines)), shown.step)
    if shown.report is not None:
        logger.experiment.add_text(REPORT, f"The report: {shown.report.resolve()}", shown.step)


def _in_wandb(logger: Any, shown: Exhibits) -> None:
    """Panels of the run at the trainer's step."""
    for name, figure in shown.figures.items():
        logger.log_image(name, [figure], step=shown.step)
    logger.log_table(TABLE, columns=list(shown.headings), data=[list(row) for row in shown.rows], step=shown.step)
    if shown.report is not None:
        import wandb

        page = wandb.Html(io.StringIO(shown.report.read_text(encoding="utf-8")), inject=False)
        logger.log_metrics({REPORT: page}, step=shown.step)


def _in_mlflow(logger: Any, shown: Exhibits) -> None:
    """PNG, CSV and HTML artifacts, which MLflow shows. Its own tables would need pandas."""
    for name, figure in shown.figures.items():
        logger.experiment.log_figure(logger.run_id, figure, f"{name}.png")
    logger.experiment.log_text(logger.run_id, shown.csv, f"{TABLE}.csv")
    if shown.report is not None:
        logger.experiment.log_text(logger.run_id, shown.report.read_text(encoding="utf-8"), f"{REPORT}.html")


def _in_folder(logger: Any, shown: Exhibits) -> None:
    """PNG, CSV and HTML files in the folder of the run. Later steps overwrite them."""
    folder = Path(logger.log_dir)
    (folder / TABLE).parent.mkdir(parents=True, exist_ok=True)
    for name, figure in shown.figures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)
    (folder / f"{TABLE}.csv").write_text(shown.csv, encoding="utf-8")
    page = folder / f"{REPORT}.html"
    if shown.report is not None and page.resolve() != shown.report.resolve():
        shutil.copyfile(shown.report, page)


def _markdown(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.4g}" if abs(cell) < 10_000 else f"{cell:.0f}"
    return str(cell)
