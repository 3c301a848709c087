"""Fits and analyses that are ended, and disks that are full: nothing that was finished is lost."""

import contextlib
import os
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn

from lightning_pareto import (
    CourseCorrection,
    InfluenceMatrix,
    ParetoCallback,
    ParetoVerdict,
    ReweightedDataModule,
)
from lightning_pareto.integration.analysis import run as analysis
from lightning_pareto.report.analysis import read_analysis
from lightning_pareto.report.html.run import read_run
from tests.faults._struck import HOWS, before, ended, strike, striking
from tests.integration._models import CLASSES, Data, Plain, trainer
from tests.integration.analysis.test_resumption import with_progress
from tests.integration.correction._spoilt import Spoils, SpoiltData

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


class Plainer(Plain):
    """Without dropout, so a resumed fit needs no random state."""

    def __init__(self, lr=0.05):
        super().__init__(lr)
        self.network = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, CLASSES))


def fit(folder, *, ckpt_path=None, **options):
    """A fit that keeps its last checkpoint, with its analysis."""
    pl.seed_everything(0, verbose=False)
    pareto = ParetoCallback(dirpath=folder / "pareto", verbose=False, **options)
    keeper = ModelCheckpoint(dirpath=folder, save_last=True)
    trainer(folder, pareto, keeper, enable_checkpointing=True).fit(Plainer(), datamodule=Data(), ckpt_path=ckpt_path)
    return pareto


def scoring(how):
    def progress(stage, done, _total):
        if stage == "scores" and done == 1:
            strike(how)

    analysis.estimating = with_progress(progress)


POINTS = {
    "scoring": scoring,
    "linear program": lambda how: setattr(analysis, "check_pareto", striking(how)),
    "writing of the influence": lambda how: setattr(InfluenceMatrix, "save", striking(how)),
    "between influence and verdict": lambda how: setattr(ParetoVerdict, "save", striking(how)),
    "small step": lambda how: setattr(analysis, "judge_step", striking(how)),
    "renaming of the outcome": lambda how: setattr(
        Path, "replace", before(Path.replace, striking(how, count=4))
    ),  # after two stages and the influence
    "renaming of the verdict": lambda how: setattr(Path, "replace", before(Path.replace, striking(how, count=6))),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The callback of an uninterrupted fit, and the weights that it trained."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return fit(folder), trained_in(folder)


def trained_in(folder):
    state = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    return torch.cat([value.flatten() for value in state.values()])


@pytest.mark.parametrize(
    ("point", "how"),
    [*((point, "killed") for point in POINTS), ("scoring", "terminated"), ("linear program", "interrupted")],
)
def test_analysis_resumes(tmp_path, undisturbed, point, how):
    def job():
        POINTS[point](how)
        fit(tmp_path)

    expected, weights = undisturbed
    assert not ended(job)
    assert torch.equal(trained_in(tmp_path), weights)
    for kind, name in ((InfluenceMatrix, "influence"), (ParetoVerdict, "verdict")):
        with contextlib.suppress(FileNotFoundError):
            kind.load(tmp_path / "pareto" / f"{name}.safetensors")
    found = fit(tmp_path, ckpt_path=str(tmp_path / "last.ckpt"))
    np.testing.assert_array_equal(found.influence.fold_scores, expected.influence.fold_scores)
    assert found.verdict.headroom == expected.verdict.headroom
    assert str(found.analysis) == str(expected.analysis) == str(read_analysis(tmp_path / "pareto"))
    np.testing.assert_array_equal(found.verdict.held_out_gain, expected.verdict.held_out_gain)
    assert not (tmp_path / "pareto" / "stages").exists()
    assert torch.equal(trained_in(tmp_path), weights)


class StrikeAt(Callback):
    """Ends the process before this training step."""

    def __init__(self, step, how):
        self.step, self.how = step, how

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            strike(self.how)


def second_fit(folder, *callbacks, ckpt_path=None):
    torch.manual_seed(0)
    model, weights = Plainer(), np.tile([0.5, 1.5], 120)
    keeper = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    fitted = trainer(folder, keeper, *callbacks, enable_checkpointing=True)
    fitted.fit(model, datamodule=ReweightedDataModule(Data(), weights), ckpt_path=ckpt_path)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_second_fit_resumes_in_the_middle_of_an_epoch(tmp_path, how):
    """With the samples that were still to be drawn, and with the same final weights."""
    expected = second_fit(tmp_path / "whole")
    assert not ended(lambda: second_fit(tmp_path / "again", StrikeAt(11, how)))
    last = max((tmp_path / "again").glob("*.ckpt"), key=lambda path: int(path.stem.removeprefix("step=")))
    assert last.stem in ("step=9", "step=11", "step=12")
    torch.testing.assert_close(second_fit(tmp_path / "again", ckpt_path=last), expected, rtol=0, atol=0)


def full(_descriptor):
    raise OSError(28, "No space left on device")


def test_full_disk_leaves_the_analysis_in_memory(tmp_path, undisturbed, monkeypatch):
    monkeypatch.setattr("os.fsync", full)
    pl.seed_everything(0, verbose=False)
    pareto = ParetoCallback(dirpath=tmp_path, verbose=False)
    with (
        pytest.warns(UserWarning, match="finished stages cannot be kept"),
        pytest.warns(
            UserWarning,
            match=r"the influence could not be written to (.|\n)*No space left on device(.|\n)*"
            r"Influence and verdict are in memory only(.|\n)*callback\.verdict\.save\(path\)",
        ),
    ):
        trainer(tmp_path, pareto).fit(Plainer(), datamodule=Data())
    np.testing.assert_array_equal(pareto.influence.scores, undisturbed[0].influence.scores)
    assert pareto.verdict.headroom == undisturbed[0].verdict.headroom
    assert not list(tmp_path.rglob("*.safetensors*"))


@pytest.mark.parametrize("disk", ["full", "free"])
@pytest.mark.filterwarnings("ignore:finished stages cannot be kept", "ignore:the influence could not be written")
def test_influence_outlives_a_failing_verdict(tmp_path, undisturbed, monkeypatch, disk):
    def fail(*_arguments, **_options):
        raise RuntimeError("no verdict today")

    monkeypatch.setattr(analysis, "check_pareto", fail)
    if disk == "full":
        monkeypatch.setattr("os.fsync", full)
    where = r"callback\.influence" if disk == "full" else r"InfluenceMatrix\.load\("
    pl.seed_everything(0, verbose=False)
    pareto = ParetoCallback(dirpath=tmp_path, verbose=False)
    with pytest.warns(UserWarning, match=rf"no verdict today\. The influence is kept: {where}"):
        trainer(tmp_path, pareto).fit(Plainer(), datamodule=Data())
    np.testing.assert_array_equal(pareto.influence.scores, undisturbed[0].influence.scores)
    with pytest.raises(RuntimeError, match=r"left no result \(verdict\)") as caught:
        _ = pareto.verdict
    assert "no verdict today" in str(caught.value.__cause__)


def test_full_disk_leaves_no_verdict_of_an_earlier_fit(tmp_path, monkeypatch):
    fit(tmp_path)
    whole = ParetoVerdict.save
    monkeypatch.setattr(ParetoVerdict, "save", before(whole, lambda: monkeypatch.setattr("os.fsync", full)))
    with pytest.warns(UserWarning, match="the verdict could not be written"):
        found = fit(tmp_path)
    kept = InfluenceMatrix.load(tmp_path / "pareto" / "influence.safetensors")
    np.testing.assert_array_equal(kept.scores, found.influence.scores)
    assert not (tmp_path / "pareto" / "verdict.safetensors").exists(), "it would belong to another influence"
    assert found.verdict.p_value >= 0


@pytest.mark.parametrize("what", ["influence", "old verdict"])
def test_failing_disk_leaves_an_earlier_pair_together(tmp_path, monkeypatch, what):
    old = fit(tmp_path)
    stage = tmp_path / "pareto" / "stages" / "1" / "scores.safetensors"
    stage.parent.mkdir(parents=True)
    stage.touch()

    def fail(*_arguments):
        raise OSError(28, "No space left on device")

    owner, method = (InfluenceMatrix, "save") if what == "influence" else (Path, "rename")
    with monkeypatch.context() as context:
        context.setattr(owner, method, fail)
        message = "influence could not be written(.|\n)*Influence and verdict are in memory only"
        with pytest.warns(UserWarning, match=message):
            found = fit(tmp_path, damping=1.0)
    run = read_run(tmp_path / "pareto")
    np.testing.assert_array_equal(run.influence.scores, old.influence.scores)
    np.testing.assert_array_equal(run.outcome.correct, old.analysis.outcome.correct)
    np.testing.assert_array_equal(run.after_step.correct, old.analysis.after_step.correct)
    assert run.verdict.headroom == old.verdict.headroom != found.verdict.headroom
    assert stage.exists(), "nothing is removed if nothing can be written"
    assert not list((tmp_path / "pareto").glob(".*"))


def test_killed_fit_leaves_no_verdict_next_to_another_fits_influence(tmp_path):
    old = fit(tmp_path)

    def job():
        InfluenceMatrix.save = striking("killed")
        fit(tmp_path, damping=1.0)

    assert not ended(job)
    np.testing.assert_array_equal(
        InfluenceMatrix.load(tmp_path / "pareto" / "influence.safetensors").scores, old.influence.scores
    )
    assert not (tmp_path / "pareto" / "verdict.safetensors").exists()
    found = fit(tmp_path, damping=1.0)
    assert read_run(tmp_path / "pareto").verdict.headroom == found.verdict.headroom


def test_full_disk_leaves_corrections_in_memory(tmp_path, monkeypatch):
    torch.manual_seed(0)
    watch = CourseCorrection(verbose=False, max_corrections=1)
    monkeypatch.setattr("os.fsync", full)
    with pytest.warns(UserWarning, match=r"corrections could not be written to (.|\n)*No space left"):
        trainer(tmp_path, Spoils(), watch, max_epochs=6).fit(Plain(), datamodule=SpoiltData(share=0.7))
    assert watch.corrections
    assert not list(tmp_path.rglob("*.safetensors*"))


@pytest.mark.parametrize("kind", [ParetoCallback, CourseCorrection])
def test_read_only_folder_is_reported_before_the_fit(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    steps = StrikeAt(0, "interrupted")
    with pytest.raises(
        OSError, match=r"results cannot be written to dirpath=(.|\n)*read-only disk(.|\n)*another folder"
    ):
        trainer(tmp_path, kind(dirpath=tmp_path / "pareto"), steps).fit(Plainer(), datamodule=Data())
    with pytest.warns(UserWarning, match=r"results will be in memory only(.|\n)*read-only disk"):
        trainer(tmp_path, kind(verbose=False)).fit(Plainer(), datamodule=Data())
