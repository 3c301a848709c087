"""Searches that are ended resume after the last finished trial, with the same result."""

import os

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lightning_pareto import InfluenceMatrix, ParetoCallback, ParetoResult, ParetoTuner
from lightning_pareto.influence import scoring
from lightning_pareto.integration.tuner import search as tuner_search
from lightning_pareto.integration.tuner import search_folder as folders
from lightning_pareto.integration.tuner import trial_recorder as recorder
from lightning_pareto.integration.tuner.trial_result import TrialResult
from tests.faults._struck import before, ended, striking
from tests.integration._models import Data, Plain, datasets, trainer

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork"),
]


class Strikes(Callback):
    """Ends the process in an epoch of the fit with this number, counted over all trials."""

    fits = 0

    def __init__(self, fit, how):
        self.fit, self.how = fit, how

    def on_train_start(self, trainer, pl_module):
        Strikes.fits += 1

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if Strikes.fits == self.fit and batch_idx == 5:
            striking(self.how)()


def search(folder, *callbacks, **options):
    """A small search. Returns its result and the weights of the model, which are those of the chosen fit."""
    torch.manual_seed(0)
    model, data = Plain(), Data(*datasets(noise=0.4))
    tuner = ParetoTuner(
        lambda: trainer(folder / "user", *callbacks, max_epochs=2, **options),
        dirpath=folder / "search",
        candidates=(),
        callback=ParetoCallback(verbose=False),
        max_epochs_spent=8,
        verbose=False,
    )
    result = tuner.fit(model, data)
    return result, torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return search(tmp_path_factory.mktemp("undisturbed"))


POINTS = {
    "scoring": lambda how: setattr(scoring, "score", striking(how)),
    "linear program": lambda how: setattr(tuner_search, "solve_mass_preserving", striking(how)),
    "writing of a trial": lambda how: setattr(TrialResult, "save", before(TrialResult.save, striking(how, count=2))),
    "writing of the result": lambda how: setattr(ParetoResult, "save", striking(how)),
    "end, before the trials are put away": lambda how: setattr(
        folders, "_keep", before(folders._keep, lambda: setattr(ParetoResult, "save", striking(how)))
    ),
}


@pytest.mark.parametrize(
    ("point", "how"),
    [
        *((point, "killed") for point in POINTS),
        ("fit", "killed"),
        ("fit", "terminated"),
        ("linear program", "interrupted"),
    ],
)
def test_search_resumes(tmp_path, undisturbed, point, how):
    def job():
        if point in POINTS:
            POINTS[point](how)
        search(tmp_path, *([Strikes(4, how)] if point == "fit" else []))

    assert not ended(job)
    finished = {path.parent.name: path.stat().st_mtime_ns for path in tmp_path.rglob("trial.safetensors")}
    assert finished
    result, weights = search(tmp_path)
    kept = tmp_path / "search" / "finished"
    assert all((kept / name / "trial.safetensors").stat().st_mtime_ns == when for name, when in finished.items())
    expected, expected_weights = undisturbed
    assert result.trials == expected.trials
    np.testing.assert_array_equal(result.after, expected.after)
    assert torch.equal(weights, expected_weights)
    assert not list(tmp_path.rglob("*.part"))


def full(_descriptor):
    raise OSError(28, "No space left on device")


def test_full_disk_at_the_end_leaves_the_result_in_memory(tmp_path, undisturbed, monkeypatch):
    whole = ParetoResult.save

    def save(result, path):
        monkeypatch.setattr("os.fsync", full)
        return whole(result, path)

    monkeypatch.setattr(ParetoResult, "save", save)
    with pytest.warns(UserWarning, match=r"in memory only: (.|\n)*No space left on device: nothing was written"):
        result, weights = search(tmp_path)
    np.testing.assert_array_equal(result.after, undisturbed[0].after)
    assert torch.equal(weights, undisturbed[1])
    saved = torch.load(result.ckpt_path, weights_only=True)["state_dict"]
    assert torch.equal(torch.cat([value.flatten() for value in saved.values()]), weights)


class Full(Callback):
    """Fills the disk at the last step of the trial with this number, counted from 1."""

    def __init__(self, trial, fails):
        self.trial, self.fails = trial, fails
        self.begun = 0

    def on_train_start(self, trainer, pl_module):
        self.begun += 1

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self.begun == self.trial and trainer.is_last_batch:
            self.fails()


def test_full_disk_during_a_trial_is_reported_and_the_search_can_resume(tmp_path, undisturbed):
    """As if Lightning could not write a checkpoint of its own."""
    text = "No space left on device, in the trial 'refit 1, budget 0.3'. 2 finished trials are kept in .*: free"
    with pytest.raises(OSError, match=text):
        search(tmp_path, Full(3, lambda: full(0)))
    result, weights = search(tmp_path)
    np.testing.assert_array_equal(result.after, undisturbed[0].after)
    assert torch.equal(weights, undisturbed[1])


@pytest.mark.parametrize("trial", [1, 2, 3])
@pytest.mark.filterwarnings("ignore:.*of the trial .* could not be written", "ignore:finished stages cannot be kept")
@pytest.mark.filterwarnings("ignore:no previews of the suspected samples")
def test_results_of_trials_stay_in_memory_if_the_disk_is_full(tmp_path, undisturbed, monkeypatch, trial):
    """From an ordinary fit on, from the influence on, and from a finalist on."""
    blocked = Full(trial, lambda: monkeypatch.setattr("os.fsync", full))
    if trial == 2:  # which trains nothing
        monkeypatch.setattr(recorder, "influence_of", before(recorder.influence_of, blocked.fails))
    with pytest.warns(UserWarning, match=r"the result could not be written(.|\n)*No space left on device"):
        result, weights = search(tmp_path, blocked)
    np.testing.assert_array_equal(result.after, undisturbed[0].after)
    assert result.trials == undisturbed[0].trials
    assert torch.equal(weights, undisturbed[1])
    monkeypatch.undo()
    again, weights = search(tmp_path)
    assert again.trials == result.trials
    assert torch.equal(weights, undisturbed[1])


@pytest.mark.filterwarnings("ignore:the influence of the trial .* could not be written")
def test_trial_without_its_influence_is_not_finished(tmp_path, undisturbed, monkeypatch):
    """If the disk has room for the result of a trial but not for its influence."""
    with monkeypatch.context() as patched:
        patched.setattr(InfluenceMatrix, "save", lambda *_arguments: full(0))
        patched.setattr(ParetoResult, "save", striking("interrupted"))
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path)
    result, weights = search(tmp_path)
    assert result.trials == undisturbed[0].trials
    assert torch.equal(weights, undisturbed[1])


@pytest.mark.filterwarnings("ignore:the result of the trial .* could not be written")
def test_launched_process_does_not_keep_results_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(TrialResult, "save", lambda *_arguments: full(0))
    with pytest.raises(Exception, match="No space left on device"):
        search(tmp_path, strategy="ddp_fork", devices=1)


def test_read_only_folder_is_reported_before_any_fit(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(
        OSError, match=r"trials cannot be written to dirpath=(.|\n)*read-only disk(.|\n)*another folder"
    ):
        search(tmp_path)
    assert not list(tmp_path.iterdir())
