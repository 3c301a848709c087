"""What a user sees on the terminal."""

import io
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, TQDMProgressBar

from lightning_pareto import (
    Correction,
    CourseCorrection,
    InfluenceMatrix,
    ParetoCallback,
    ParetoResult,
    SampleWeights,
    reweight,
    trade_off_samples,
)
from lightning_pareto.integration.analysis import run as analysis
from lightning_pareto.integration.analysis.resumption import how_to_go_on
from lightning_pareto.integration.correction.record import Record, publish
from lightning_pareto.integration.output.results_folder import ResultsFolder
from lightning_pareto.storage.run_folders import RECORD_FILE
from tests.integration._models import Data, Plain, trainer
from tests.integration.correction._spoilt import SPOILT, Spoils, SpoiltData

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")

STAGES = ("factors", "eigenvalues", "category gradients", "scores")


def rich_bar(file):
    pytest.importorskip("rich")
    return RichProgressBar(console_kwargs={"file": file, "force_terminal": True, "width": 100})


@pytest.fixture
def rich_console():
    """RichProgressBar reconfigures rich's one console for good."""
    rich = pytest.importorskip("rich")
    yield
    rich.reconfigure()


@pytest.mark.usefixtures("rich_console")
def test_richs_own_display_shows_every_stage_with_the_time_left(tmp_path):
    file = io.StringIO()
    bar = rich_bar(file)
    trainer(tmp_path, ParetoCallback(verbose=False), bar, enable_progress_bar=True).fit(Plain(), datamodule=Data())
    for stage in STAGES:
        assert f"Pareto: {stage}" in file.getvalue()
    row = file.getvalue().split("Pareto: scores")[1].split("\n")[0]
    assert "0/8" in row
    assert "•" in row, "elapsed and left"
    assert not [task for task in bar.progress.tasks if "Pareto" in task.description and task.visible]


@pytest.mark.usefixtures("rich_console")
def test_richs_bars_of_a_fit_stand_when_the_analysis_comes_in_between(tmp_path):
    file, correction = io.StringIO(), CourseCorrection(verbose=False, least_gain=0.999)
    fitted = trainer(tmp_path, Spoils(), correction, rich_bar(file), enable_progress_bar=True, max_epochs=SPOILT + 2)
    fitted.fit(Plain(), datamodule=SpoiltData(share=0.7))
    assert correction.corrections
    before, after = file.getvalue().split("Pareto: scores", 1)
    assert f"Epoch {SPOILT}/" in before
    assert f"Epoch {SPOILT + 1}/" in after
    assert fitted.progress_bar_callback.val_progress_bar.description.endswith("Validation")


@pytest.mark.usefixtures("rich_console")
def test_rich_shows_an_analysis_that_is_made_up_for_after_a_finished_fit(tmp_path):
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
    assert "<" in row, "elapsed and left"


@pytest.mark.parametrize("bar", [None, 0])
def test_without_a_bar_and_without_words_nothing_is_printed(tmp_path, capsys, bar):
    bars = [] if bar is None else [TQDMProgressBar(refresh_rate=0)]
    fitted = trainer(tmp_path, ParetoCallback(verbose=False), *bars, enable_progress_bar=bool(bars))
    fitted.fit(Plain(), datamodule=Data())
    assert "Pareto" not in "".join(capsys.readouterr())


NAMES = tuple(f"a class with a rather long name, {k} of a dozen" for k in range(12))


def fits(text):
    return max(map(len, text.splitlines())) <= 80


def test_what_is_printed_fits_a_terminal_of_eighty_columns():
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(3000, 12)).astype(np.float32) * 1e-7
    influence = InfluenceMatrix(scores, generator.integers(0, 12, 3000), category_names=NAMES)
    values = generator.random((3, 12))
    result = ParetoResult(
        category_names=NAMES,
        before=values[0],
        after=values[1],
        support=np.full(12, 100_000),
        p_values=values[2] * 1e-12,
        refused=values[0],
        gain=-0.012,
        gain_error=0.005,
        accepted=False,
        reason="not better beyond chance: " + "; ".join(NAMES),
        weights=None,
        ckpt_path="/runs/best.ckpt",
        best_epoch=10,
        epochs_spent=1234,
        trials=(),
    )
    for text in (str(trade_off_samples(influence, *NAMES[:2])), repr(reweight(influence)), str(result)):
        assert fits(text), text


@pytest.mark.parametrize("again", [(), tuple([0.1] * 12)])
def test_a_long_correction_is_printed_in_lines(tmp_path, capsys, again):
    done = Correction(4, NAMES[:5], NAMES, (0.9,) * 12, (0.2,) * 12, again, False)
    place = ResultsFolder((RECORD_FILE,), tmp_path, None, resumed=False)
    publish(trainer(tmp_path), Record(), done, SampleWeights(np.ones(3)), place, verbose=True)
    text = capsys.readouterr().out
    assert text.strip().startswith("CourseCorrection: epoch 4 taken again")
    assert fits(text)


def interrupted(folder, stages):
    """As a process of its own: Ctrl-C in the middle of the scoring pass."""
    whole = analysis.estimate_influence
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background of a shell has not

    def stopped(*arguments, **options):
        def progress(stage, done, _total):
            if stage == "scores" and done == 1:
                signal.raise_signal(signal.SIGINT)

        return whole(*arguments, **{**options, "progress": progress})

    analysis.estimate_influence = stopped
    fit_with(Path(folder), stages)


def fit_with(folder, stages, **options):
    callback = ParetoCallback(dirpath=folder / "pareto" if stages else None)
    keeper = ModelCheckpoint(dirpath=folder, save_last=True)
    trainer(folder, callback, keeper, enable_checkpointing=True).fit(Plain(), datamodule=Data(), **options)
    return callback


@pytest.mark.parametrize("stages", [True, False])
def test_an_interruption_says_how_to_go_on_and_going_on_says_so(tmp_path, capsys, stages):
    code = f"from tests.integration.test_progress import interrupted; interrupted({str(tmp_path)!r}, {stages})"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False, capture_output=True, text=True)
    assert "The analysis was interrupted" in done.stdout, done.stderr
    assert ("is kept in" in done.stdout) is stages
    assert f"ckpt_path='{tmp_path / 'last.ckpt'}'" in done.stdout
    assert all(len(line) <= 80 or str(tmp_path) in line for line in done.stdout.splitlines())
    callback = fit_with(tmp_path, stages, ckpt_path=str(tmp_path / "last.ckpt"))
    assert callback.verdict.headroom > 0
    assert ("An interrupted analysis goes on in" in capsys.readouterr().out) is stages


def test_without_a_last_checkpoint_the_newest_is_named(tmp_path):
    keeper = ModelCheckpoint(dirpath=tmp_path, monitor="val_loss", save_top_k=-1)
    fitted = trainer(tmp_path, keeper, enable_checkpointing=True)
    assert "next time with a ModelCheckpoint(save_last=True)" in how_to_go_on(fitted, None)
    fitted.fit(Plain(), datamodule=Data())
    newest = max(tmp_path.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    assert len(list(tmp_path.glob("*.ckpt"))) > 1
    assert f"ckpt_path={str(newest)!r}" in how_to_go_on(fitted, None)


def test_stages_of_another_model_are_said_to_be_made_anew(tmp_path, capsys):
    code = f"from tests.integration.test_progress import interrupted; interrupted({str(tmp_path)!r}, True)"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False, capture_output=True)
    callback = ParetoCallback(dirpath=tmp_path / "pareto", damping=1.0)
    trainer(tmp_path, callback).fit(Plain(), datamodule=Data())
    out = capsys.readouterr().out
    assert out.index("An interrupted analysis goes on") < out.index("is made anew") < out.index("Pareto improvement")
