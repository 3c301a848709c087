"""An analysis that was killed resumes when the fit is called again."""

import os
import re
import signal
from dataclasses import replace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from lightning_pareto import ParetoCallback
from lightning_pareto.integration.analysis import run as analysis
from lightning_pareto.integration.analysis.resumption import how_to_resume, remove_stages
from tests._processes import done
from tests.integration._models import Data, Plain, trainer

pytestmark = pytest.mark.filterwarnings(
    "ignore:Checkpoint directory .* exists and is not empty", "ignore:.*multi-threaded, use of fork"
)


def fit(folder, *, ckpt_path=None, **options):
    """A short fit that keeps its last checkpoint."""
    pl.seed_everything(0, verbose=False)
    callback = ParetoCallback(dirpath=folder / "pareto", verbose=False, **options)
    keeper = ModelCheckpoint(dirpath=folder, save_last=True)
    fitted = trainer(folder, callback, keeper, enable_checkpointing=True)
    fitted.fit(Plain(), datamodule=Data(), ckpt_path=ckpt_path)
    return callback


def killed(folder):
    """For a process of its own: a fit that is killed in the middle of the scoring pass."""

    def progress(stage, done, _total):
        if stage == "scores" and done == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    analysis.estimating = with_progress(progress)
    fit(folder)


def with_progress(progress):
    """The estimate of influence, reporting to this function first."""
    whole = analysis.estimating

    def estimate(*arguments, execution, **options):
        def both(*report):
            progress(*report)
            execution.progress(*report)

        return whole(*arguments, execution=replace(execution, progress=both), **options)

    return estimate


def stages_begun(monkeypatch):
    begun = []
    monkeypatch.setattr(analysis, "estimating", with_progress(lambda stage, done, _: done or begun.append(stage)))
    return begun


def test_analysis_that_was_killed_resumes_with_the_same_numbers(tmp_path, monkeypatch):
    expected = fit(tmp_path / "whole")
    assert done(killed, tmp_path / "again")[0] == -signal.SIGKILL
    assert list((tmp_path / "again" / "pareto" / "stages" / "0").glob("*.safetensors"))
    begun = stages_begun(monkeypatch)
    found = fit(tmp_path / "again", ckpt_path=str(tmp_path / "again" / "last.ckpt"))
    assert "scores" in begun
    assert "factors" not in begun
    np.testing.assert_array_equal(found.influence.fold_scores, expected.influence.fold_scores)
    assert found.verdict.headroom == pytest.approx(expected.verdict.headroom, rel=1e-12)
    assert not (tmp_path / "again" / "pareto" / "stages").exists()


def test_stages_of_an_earlier_fit_are_not_used_for_a_new_one(tmp_path):
    done(killed, tmp_path)
    stale = list((tmp_path / "pareto" / "stages" / "0").glob("*.safetensors"))
    assert stale
    assert fit(tmp_path, damping=1.0).influence.metadata["options"]["damping"] == 1.0
    assert not any(path.exists() for path in stale)


def test_analysis_can_be_made_up_for_after_a_finished_fit(tmp_path):
    fit(tmp_path, analyse=False)
    assert fit(tmp_path, ckpt_path=str(tmp_path / "last.ckpt")).influence.scores.shape[0] == 240


def test_nothing_is_analysed_without_training(tmp_path):
    callback = ParetoCallback(verbose=False)
    trainer(tmp_path, callback, max_epochs=0).fit(Plain(), datamodule=Data())
    with pytest.raises(RuntimeError, match="there is no result"):
        _ = callback.influence


def test_only_stages_are_removed(tmp_path):
    (tmp_path / "stages" / "0").mkdir(parents=True)
    for name in ("stages/0/curvature.safetensors", "stages/0/mine.txt", "influence.safetensors"):
        (tmp_path / name).touch()
    remove_stages(tmp_path)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "influence.safetensors",
        "stages/0/mine.txt",
    ]


def interrupted(folder, stages):
    """For a process of its own: Ctrl-C in the middle of the scoring pass."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it otherwise

    def progress(stage, done, _total):
        if stage == "scores" and done == 1:
            signal.raise_signal(signal.SIGINT)

    analysis.estimating = with_progress(progress)
    fit_and_tell(folder, stages)


def fit_and_tell(folder, stages, **options):
    callback = ParetoCallback(dirpath=folder / "pareto" if stages else None)
    keeper = ModelCheckpoint(dirpath=folder, save_last=True)
    trainer(folder, callback, keeper, enable_checkpointing=True).fit(Plain(), datamodule=Data(), **options)
    return callback


@pytest.mark.parametrize("stages", [True, False])
def test_interruption_says_how_to_resume_and_resuming_is_announced(tmp_path, capsys, stages):
    _, printed = done(interrupted, tmp_path, stages)
    assert "The analysis was interrupted." in printed
    assert (f"Finished stages are kept in {tmp_path / 'pareto'}. To resume:" in printed) is stages
    assert ("With ParetoCallback(dirpath=…) finished stages are kept." in printed) is not stages
    assert f"ckpt_path='{tmp_path / 'last.ckpt'}'" in printed
    assert all(len(line) <= 80 or str(tmp_path) in line for line in printed.splitlines())
    callback = fit_and_tell(tmp_path, stages, ckpt_path=str(tmp_path / "last.ckpt"))
    assert callback.verdict.headroom > 0
    assert ("Resuming the interrupted analysis in" in capsys.readouterr().out) is stages


class Interrupts(Callback):
    """Interrupts the end of the fit, as Ctrl-C does in the analysis, and keeps the advice."""

    def on_train_end(self, trainer, pl_module):
        self.advice = how_to_resume(trainer, None)


@pytest.mark.parametrize("keeps", [True, False])
def test_checkpoint_of_the_end_is_saved_if_the_fit_keeps_none(tmp_path, keeps):
    keeper = ModelCheckpoint(dirpath=tmp_path, monitor="val_loss", save_top_k=1)
    ended = Interrupts()
    callbacks = (ended, keeper) if keeps else (ended,)
    model = Plain()
    trainer(tmp_path, *callbacks, enable_checkpointing=keeps).fit(model, datamodule=Data())
    (path,) = re.findall(r"ckpt_path='(.*)'\)", ended.advice)
    assert path == str(tmp_path / "interrupted.ckpt")
    callback, again = ParetoCallback(verbose=False), Plain()
    callbacks = (callback, keeper) if keeps else (callback,)
    trainer(tmp_path, *callbacks, enable_checkpointing=keeps).fit(again, datamodule=Data(), ckpt_path=path)
    assert torch.equal(again.network[0].weight, model.network[0].weight), "nothing was trained"
    assert callback.verdict.headroom > 0


def test_advice_names_no_checkpoint_that_does_not_exist(tmp_path, monkeypatch):
    fitted, ended = trainer(tmp_path), Interrupts()
    fitted.callbacks.append(ended)

    def full(path):
        raise OSError("no space left on device")

    monkeypatch.setattr(fitted, "save_checkpoint", full)
    fitted.fit(Plain(), datamodule=Data())
    assert "ckpt_path" not in ended.advice
    assert "fit once more" in ended.advice


def test_stages_of_another_model_are_said_to_be_discarded(tmp_path, capsys):
    done(interrupted, tmp_path, True)
    callback = ParetoCallback(dirpath=tmp_path / "pareto", damping=1.0)
    trainer(tmp_path, callback).fit(Plain(), datamodule=Data())
    out = capsys.readouterr().out
    texts = (
        "Resuming the interrupted analysis",
        "another model or other options: the analysis starts over",
        "Pareto imp",
    )
    places = [out.index(text) for text in texts]
    assert places == sorted(places)
