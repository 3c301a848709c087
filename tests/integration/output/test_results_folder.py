"""Where the results of a fit are written, so that no earlier result is lost."""

from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.callbacks import Callback

from lightning_pareto import InfluenceMatrix, ParetoCallback
from lightning_pareto.command_line.inputs import find
from lightning_pareto.integration.analysis import run as analysis
from lightning_pareto.integration.output.results_folder import why_not_writable
from lightning_pareto.report.html.run import results_folder_of
from lightning_pareto.storage.run_folders import run_folders_in
from tests.integration._models import Data, Plain, trainer


class WarningsBefore(Callback):
    """Notes the warnings that there were when training began."""

    def __init__(self, warned):
        self.warned = warned

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before = [str(each.message) for each in self.warned]


@pytest.mark.filterwarnings("ignore:results will be in memory only")
def test_unwritable_folder_is_reported_before_the_fit_and_results_stay_in_memory(tmp_path):
    (tmp_path / "pareto").write_text("not a folder")
    callback = ParetoCallback(verbose=False)
    with pytest.warns(UserWarning, match="the influence could not be written(.|\n)*in memory only") as warned:
        trainer(tmp_path, callback, noted := WarningsBefore(warned)).fit(Plain(), datamodule=Data())
    assert any("results will be in memory only" in text and "is not a folder" in text for text in noted.before)
    assert callback.verdict.p_value >= 0


def test_results_of_an_earlier_fit_in_the_same_folder_are_kept(tmp_path, caplog):
    callback, other = ParetoCallback(verbose=False), ParetoCallback(verbose=False, damping=1.0)
    trainer(tmp_path, callback).fit(Plain(), datamodule=Data())
    first = callback.influence.scores
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        trainer(tmp_path, other).fit(Plain(), datamodule=Data())
    assert (
        f"{tmp_path / 'pareto'} holds the results of an earlier fit. Those of this fit are written to " in caplog.text
    )
    for folder, expected in (("pareto", first), ("pareto_1", other.influence.scores)):
        kept = InfluenceMatrix.load(tmp_path / folder / "influence.safetensors")
        np.testing.assert_array_equal(kept.scores, expected)
    assert find(tmp_path, "influence") == tmp_path / "pareto_1" / "influence.safetensors"
    assert find(tmp_path, "verdict").parent == results_folder_of(tmp_path) == tmp_path / "pareto_1"
    trainer(tmp_path, ParetoCallback(analyse=False)).fit(Plain(), datamodule=Data())
    assert not (tmp_path / "pareto_2").exists()
    trainer(tmp_path, callback).fit(Plain(), datamodule=Data())
    assert InfluenceMatrix.load(tmp_path / "pareto_2" / "influence.safetensors").scores.shape == first.shape


def scores_in(folder):
    return InfluenceMatrix.load(folder / "influence.safetensors").scores


class Meanwhile(Callback):
    """Another complete fit in the same folder while this one trains."""

    def __init__(self, folder, callback):
        self.folder, self.callback = folder, callback

    def on_train_epoch_start(self, fitted, pl_module):
        if fitted.current_epoch == 0:
            trainer(self.folder, self.callback).fit(Plain(), datamodule=Data())


def test_overlapping_fits_do_not_replace_each_others_results(tmp_path):
    callback, other = ParetoCallback(verbose=False), ParetoCallback(verbose=False, damping=1.0)
    trainer(tmp_path, callback, Meanwhile(tmp_path, other)).fit(Plain(), datamodule=Data())
    np.testing.assert_array_equal(scores_in(tmp_path / "pareto"), other.influence.scores)
    np.testing.assert_array_equal(scores_in(tmp_path / "pareto_1"), callback.influence.scores)


def test_two_callbacks_of_one_fit_do_not_replace_each_others_results(tmp_path):
    callbacks = [ParetoCallback(verbose=False), ParetoCallback(verbose=False, measure="soft_error")]
    trainer(tmp_path, *callbacks).fit(Plain(), datamodule=Data())
    for folder, callback in zip(("pareto", "pareto_1"), callbacks, strict=True):
        np.testing.assert_array_equal(scores_in(tmp_path / folder), callback.influence.scores)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.filterwarnings("ignore:ParetoCallback failed after the fit")
def test_nor_do_they_in_a_resumed_fit_without_a_verdict(tmp_path, monkeypatch):
    fitted = trainer(tmp_path, ParetoCallback(analyse=False), max_epochs=1)
    fitted.fit(Plain(), datamodule=Data())
    fitted.save_checkpoint(tmp_path / "last.ckpt")

    def fail(*_arguments, **_options):
        raise RuntimeError("no verdict today")

    monkeypatch.setattr(analysis, "check_pareto", fail)
    callbacks = [ParetoCallback(verbose=False), ParetoCallback(verbose=False, measure="soft_error")]
    trainer(tmp_path, *callbacks).fit(Plain(), datamodule=Data(), ckpt_path=tmp_path / "last.ckpt")
    for folder, callback in zip(("pareto", "pareto_1"), callbacks, strict=True):
        np.testing.assert_array_equal(scores_in(tmp_path / folder), callback.influence.scores)


def test_only_result_folders_are_counted(tmp_path):
    """Not folders of the user, nor names that no fit makes."""
    for name in ("pareto", "pareto_3", "pareto_03", "pareto_12", "pareto_2024"):
        (tmp_path / name).mkdir()
    for name in ("pareto", "pareto_3", "pareto_03"):
        (tmp_path / name / "verdict.safetensors").touch()
    assert run_folders_in(tmp_path) == [tmp_path / "pareto_3", tmp_path / "pareto"]
    callback = ParetoCallback(verbose=False)
    trainer(tmp_path, callback).fit(Plain(), datamodule=Data())
    np.testing.assert_array_equal(scores_in(tmp_path / "pareto_4"), callback.influence.scores)


def test_folder_without_permission_does_not_end_the_fit(tmp_path, monkeypatch):
    """Another user's folder, imitated because root may read everything."""
    closed = tmp_path / "pareto"
    closed.mkdir()

    def of_open_folders(ask):
        def asked(path, *arguments, **options):
            if closed in path.parents:
                raise PermissionError(13, "Permission denied", str(path))
            return ask(path, *arguments, **options)

        return asked

    for name in ("exists", "is_file"):
        monkeypatch.setattr(Path, name, of_open_folders(getattr(Path, name)))
    callback = ParetoCallback(verbose=False)
    trainer(tmp_path, callback).fit(Plain(), datamodule=Data())
    assert callback.verdict.p_value >= 0
    np.testing.assert_array_equal(scores_in(tmp_path / "pareto_1"), callback.influence.scores)
    assert "Permission denied" in why_not_writable(closed / "mine")


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_resumed_fit_continues_in_a_folder_without_a_verdict(tmp_path):
    callback, data = ParetoCallback(verbose=False), Data()
    fitted = trainer(tmp_path, callback)
    fitted.fit(Plain(), datamodule=data)
    fitted.save_checkpoint(tmp_path / "last.ckpt")
    (tmp_path / "pareto" / "verdict.safetensors").unlink()
    trainer(tmp_path, callback).fit(Plain(), datamodule=data, ckpt_path=tmp_path / "last.ckpt")
    assert (tmp_path / "pareto" / "verdict.safetensors").exists()
    assert not (tmp_path / "pareto_1").exists()
    trainer(tmp_path, callback).fit(Plain(), datamodule=data, ckpt_path=tmp_path / "last.ckpt")
    assert (tmp_path / "pareto_1" / "verdict.safetensors").exists(), "a finished result is not replaced"
