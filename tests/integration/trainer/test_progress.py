"""Progress bars of the analysis."""

import io
import re

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, TQDMProgressBar

from lightning_pareto import CourseCorrection, ParetoCallback
from lightning_pareto.integration.trainer import progress
from tests.integration._models import Data, Plain, trainer
from tests.integration.correction._spoilt import SPOILT, Spoils, SpoiltData

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


@pytest.mark.parametrize("verbose", [True, False])
def test_lines_tell_the_progress_where_there_is_no_bar(tmp_path, capsys, monkeypatch, verbose):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    trainer(tmp_path, ParetoCallback(verbose=verbose)).fit(Plain(), datamodule=Data())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Pareto: scores")]
    assert bool(lines) is verbose
    assert all(re.fullmatch(r"Pareto: scores, \d of 8 batches, .* left", line) for line in lines)


def test_lines_come_once_a_minute(monkeypatch):
    now, said = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    show = progress._lines(said.append)
    for done in range(11):
        show("scores", done, 10)
        now[0] += 20.0
    assert said[0] == "Pareto: scores, 3 of 10 batches, 2.3 min left"
    assert len(said) == 3


STAGES = ("factors", "eigenvalues", "category gradients", "scores")


def rich_bar(file):
    pytest.importorskip("rich")
    return RichProgressBar(console_kwargs={"file": file, "force_terminal": True, "width": 100})


@pytest.fixture
def rich_console():
    """Undoes what RichProgressBar does to rich's only console."""
    rich = pytest.importorskip("rich")
    yield
    rich.reconfigure()


@pytest.mark.usefixtures("rich_console")
def test_rich_shows_every_stage_with_the_time_left(tmp_path):
    file = io.StringIO()
    bar = rich_bar(file)
    trainer(tmp_path, ParetoCallback(verbose=False), bar, enable_progress_bar=True).fit(Plain(), datamodule=Data())
    for stage in STAGES:
        assert f"Pareto: {stage}" in file.getvalue()
    row = file.getvalue().split("Pareto: scores")[1].split("\n")[0]
    assert "0/8" in row
    assert "•" in row, "elapsed and remaining time"
    assert not [task for task in bar.progress.tasks if "Pareto" in task.description and task.visible]


@pytest.mark.usefixtures("rich_console")
def test_rich_keeps_the_bars_of_the_fit_during_an_analysis_in_between(tmp_path):
    file, correction = io.StringIO(), CourseCorrection(verbose=False, least_gain=0.999)
    fitted = trainer(tmp_path, Spoils(), correction, rich_bar(file), enable_progress_bar=True, max_epochs=SPOILT + 2)
    fitted.fit(Plain(), datamodule=SpoiltData(share=0.7))
    assert correction.corrections
    before, after = file.getvalue().split("Pareto: scores", 1)
    assert f"Epoch {SPOILT}/" in before
    assert f"Epoch {SPOILT + 1}/" in after
    assert fitted.progress_bar_callback.val_progress_bar.description.endswith("Validation")


@pytest.mark.usefixtures("rich_console")
def test_rich_shows_an_analysis_after_a_skipped_fit(tmp_path):
    def fit(callback, file, **options):
        keeper = ModelCheckpoint(dirpath=tmp_path, save_last=True)
        bars = {"enable_progress_bar": True, "enable_checkpointing": True}
        trainer(tmp_path, callback, keeper, rich_bar(file), **bars).fit(Plain(), datamodule=Data(), **options)

    fit(ParetoCallback(analyse=False, dirpath=tmp_path / "p"), io.StringIO())
    file = io.StringIO()
    callback = ParetoCallback(verbose=False, dirpath=tmp_path / "p")
    fit(callback, file, ckpt_path=str(tmp_path / "last.ckpt"))
    assert callback.verdict.headroom > 0
    assert "Pareto: scores" in file.getvalue()


def test_tqdm_shows_every_stage_with_the_time_left(tmp_path, capsys):
    bar = TQDMProgressBar()
    trainer(tmp_path, ParetoCallback(verbose=False), bar, enable_progress_bar=True).fit(Plain(), datamodule=Data())
    out = capsys.readouterr().out
    for stage in STAGES:
        assert f"Pareto: {stage}" in out
    row = out.split("Pareto: scores")[-1].split("\r")[0]
    assert "/8 [" in row
    assert "<" in row, "elapsed and remaining time"


@pytest.mark.parametrize("bar", [None, 0])
def test_nothing_is_printed_without_a_bar_and_verbose(tmp_path, capsys, bar):
    bars = [] if bar is None else [TQDMProgressBar(refresh_rate=0)]
    fitted = trainer(tmp_path, ParetoCallback(verbose=False), *bars, enable_progress_bar=bool(bars))
    fitted.fit(Plain(), datamodule=Data())
    assert "Pareto" not in "".join(capsys.readouterr())
