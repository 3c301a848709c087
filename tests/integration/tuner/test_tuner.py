"""The search for a better second fit as users see it."""

import time
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from lightning_pareto import (
    ParetoCallback,
    ParetoResult,
    ParetoTuner,
    ParetoVerdict,
    write_report,
)
from lightning_pareto.datasets import Rows, gaussian_classes
from lightning_pareto.integration.tuner import search
from lightning_pareto.integration.tuner.final_fits import FinalFits
from lightning_pareto.integration.tuner.messages import next_step
from lightning_pareto.integration.tuner.project import Project
from lightning_pareto.integration.tuner.trial import Trial
from lightning_pareto.integration.tuner.trials import Trials
from tests._processes import begun
from tests.integration._models import CLASSES, Data, DictBatches, Dicts, Plain, trainer

EPOCHS = 3


class Crowded(Data):
    """Classes that overlap and swap labels in pairs, so reweighting helps. By default with many validation samples."""

    def __init__(self, noise=0.45, val=3000, distance=3.0):
        train = gaussian_classes(400, seed=1, distance=distance)
        generator = torch.Generator().manual_seed(1)
        wrong = (train.true % 2 == 0) & (torch.rand(400, generator=generator) < noise)
        given = torch.where(wrong, train.true + 1, train.true)
        self.swapped = wrong.numpy()
        super().__init__(Rows(train.inputs, given), self.fresh(val, 2, distance))

    @staticmethod
    def fresh(size=5000, seed=3, distance=3.0):
        return gaussian_classes(size, seed=seed, distance=distance).dataset()


def module(kind=Plain):
    torch.manual_seed(0)
    return kind()


def tuner_in(tmp_path, *callbacks, **options):
    quiet = {"dirpath": tmp_path / "search", "verbose": False, "callback": ParetoCallback(verbose=False)}
    options = {**quiet, "candidates": (), **options}
    return ParetoTuner(lambda: trainer(tmp_path / "user", *callbacks, max_epochs=EPOCHS), **options)


def ordinary_weights(tmp_path):
    """The weights at the best epoch of an ordinary fit of the tuner, with the same seed."""
    project = Project(
        trainer_factory=lambda: trainer(tmp_path / "user", max_epochs=EPOCHS),
        module=module(),
        datamodule=Crowded(),
        callback=ParetoCallback(),
    )
    trials = Trials(project, tmp_path / "ordinary")
    path = trials.run(Trial("ordinary", "initial", None, keeps=True)).checkpoint
    return torch.load(path, weights_only=True)["state_dict"]


def accuracy(model, data):
    x, y = data.tensors
    model.eval()
    predicted = model(x).argmax(1)
    return np.array([float((predicted[y == k] == k).double().mean()) for k in range(CLASSES)])


def test_better_model_is_found_and_returned(tmp_path):
    data, model = Crowded(), module()
    tuner = tuner_in(tmp_path, budget=0.15)
    result = tuner.fit(model, data)
    assert result.accepted
    assert result.after.mean() > result.before.mean() + 0.01
    fresh = Crowded.fresh()
    before = module()
    before.load_state_dict(ordinary_weights(tmp_path))
    assert accuracy(model, fresh).mean() > accuracy(before, fresh).mean() + 0.01  # on samples that no decision has seen
    saved = torch.load(result.ckpt_path, weights_only=True)["state_dict"]
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())
    assert tuner.verdict.improvable
    assert len(tuner.influence.labels) == len(result.weights) == 400
    assert result.epochs_spent == sum(trial.epochs for trial in result.trials) == 3 * EPOCHS
    assert (result.p_values > 0.0125).all()
    assert str(result).startswith(
        "Better model accepted:\nA fit with weights (budget 0.15): the mean accuracy changes by +"
    )
    kept = list((tmp_path / "search").rglob("*.ckpt"))
    assert kept == [Path(result.ckpt_path)]


def test_nothing_is_accepted_on_clean_data_and_the_ordinary_model_is_returned(tmp_path):
    for seed in range(2):
        data, model = Crowded(noise=0.0, val=500, distance=2.0), module()
        result = tuner_in(tmp_path, seed=seed).fit(model, data)
        assert not result.accepted
        np.testing.assert_array_equal(result.before, result.after)
        np.testing.assert_allclose(accuracy(model, data.val), result.before, atol=1e-6)
        assert result.reason.endswith(". The best ordinary model is returned.")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """An uninterrupted search and its folder."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return tuner_in(folder).fit(module(), Crowded(val=300)), folder / "search"


def assert_same(one, two):
    assert one.trials == two.trials
    assert (one.weights is None) == (two.weights is None)
    if one.weights is not None:
        np.testing.assert_array_equal(one.weights.values, two.weights.values)
    np.testing.assert_array_equal(one.after, two.after)


def test_same_seed_gives_the_same_search(tmp_path, undisturbed):
    assert_same(tuner_in(tmp_path).fit(module(), Crowded(val=300)), undisturbed[0])


class PowerCut(pl.Callback):
    """Fails in the fit with this number, counted over all trials."""

    count = 0

    def __init__(self, at):
        self.at = at

    def on_train_end(self, trainer, pl_module):
        PowerCut.count += 1
        if PowerCut.count == self.at:
            raise RuntimeError("power cut")


@pytest.mark.parametrize("at", [1, 2, 4])
def test_interrupted_search_resumes(tmp_path, undisturbed, at):
    """No finished trial is run again, and the result is that of an uninterrupted search."""
    expected = undisturbed[0]
    PowerCut.count = 0
    with pytest.raises(RuntimeError, match="power cut"):
        tuner_in(tmp_path, PowerCut(at)).fit(module(), Crowded(val=300))
    result = tuner_in(tmp_path, PowerCut(0)).fit(Plain(), Crowded(val=300))  # its random start does not matter
    assert PowerCut.count == len(expected.trials) + 1
    assert_same(result, expected)


def search_in(folder):
    return tuner_in(folder).fit(module(), Crowded(val=300))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_killed_search_resumes(tmp_path, undisturbed):
    process = begun(search_in, tmp_path)
    end = time.monotonic() + 120
    while len(list(tmp_path.rglob("trial.safetensors"))) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    process.kill()
    process.join()
    finished = {path.parent.name: path.stat().st_mtime_ns for path in tmp_path.rglob("trial.safetensors")}
    assert 3 <= len(finished) < 5
    result = search_in(tmp_path)
    kept = tmp_path / "search" / "finished"
    assert all((kept / name / "trial.safetensors").stat().st_mtime_ns == when for name, when in finished.items())
    assert_same(result, undisturbed[0])


def test_finished_search_starts_over(tmp_path, capsys):
    first = tuner_in(tmp_path).fit(module(), Crowded(val=300))
    other = tuner_in(tmp_path, verbose=True).fit(module(), Crowded(val=300, noise=0.0))
    text = f"The finished search in {tmp_path / 'search'} starts over, and its result will be replaced."
    assert capsys.readouterr().out.startswith(text)
    assert not np.array_equal(first.before, other.before)


def test_genetic_search_of_the_paper(tmp_path):
    """It compares the weighted epoch itself with the ordinary one."""
    tuner = tuner_in(tmp_path, search="genetic", targets=[0, 2], max_epochs_spent=EPOCHS + 14, population=4)
    result = tuner.fit(module(), Crowded(noise=0.3))
    assert result.epochs_spent <= EPOCHS + 14
    tried = [trial for trial in result.trials if trial.name == "epoch of the paper's LP"]
    assert len(tried) >= 8
    assert all(trial.epochs == 1 for trial in tried)
    if result.accepted:
        assert result.weights.values.mean() == pytest.approx(1)
        assert "paper's LP" in result.weights.metadata["proposal"]


def test_equal_weights_are_not_trained_twice(tmp_path, monkeypatch):
    """A search that keeps proposing the same thresholds ends after one epoch."""

    class Stubborn:
        def __init__(self, categories, population, seed):
            self.alpha = np.full(categories, 0.5)

        def ask(self):
            return [self.alpha] * 4

        def tell(self, thresholds, fitness):
            pass

    monkeypatch.setattr(search, "GeneticSearch", Stubborn)
    result = tuner_in(tmp_path, search="genetic", max_epochs_spent=EPOCHS + 20).fit(module(), Crowded(val=300))
    assert [trial.name for trial in result.trials].count("epoch of the paper's LP") == 1


def test_course_correction_reruns_the_last_epoch(tmp_path):
    result = tuner_in(tmp_path, mode="course_correction", max_epochs_spent=EPOCHS + 8).fit(module(), Crowded(val=300))
    names = [trial.name for trial in result.trials]
    assert names[2] == "ordinary epoch"
    fell = [trial.worst for trial in result.trials[1:3]]
    assert len(names) > 3 or (fell[1] >= fell[0] and not result.accepted)  # nothing is tried if nothing falls


@pytest.mark.slow
def test_search_starts_from_a_checkpoint(tmp_path):
    data, model = Crowded(), module()
    ordinary = trainer(tmp_path, max_epochs=EPOCHS)
    ordinary.fit(model, datamodule=data)
    path = tmp_path / "given.ckpt"
    ordinary.save_checkpoint(path)
    before = accuracy(model, data.val)
    for refit in ("continue", "epoch", "scratch"):
        tuner = tuner_in(tmp_path, refit=refit, max_epochs_spent=4 * EPOCHS)
        result = tuner.fit(module(), data, ckpt_path=path)
        np.testing.assert_allclose(result.before, before, atol=1e-6)
        assert path.exists()
        assert result.epochs_spent <= 4 * EPOCHS
        assert result.after.mean() >= result.before.mean()


class SomeDicts(Data):
    def __init__(self):
        super().__init__()
        self.train, self.val = Dicts(self.train), Dicts(self.val)


def parity(batch):
    return batch["labels"] % 2


def test_dict_batches_and_categories_of_the_user_are_read(tmp_path):
    callback = ParetoCallback(categories=parity, category_names=["even", "odd"])
    result = tuner_in(tmp_path, callback=callback).fit(module(DictBatches), SomeDicts())
    assert result.category_names == ("even", "odd")
    assert result.support.tolist() == [(SomeDicts().val.y % 2 == k).sum() for k in range(2)]


def test_measure_and_named_targets_are_those_of_the_user(tmp_path):
    callback = ParetoCallback(class_names=["a", "b", "c", "d"], measure="soft_error")
    tuner = tuner_in(tmp_path, callback=callback, targets="c")
    result = tuner.fit(module(), Crowded(val=300))
    assert tuner.influence.metadata["options"]["measure"] == "soft_error"
    assert [trial.name for trial in result.trials][1:3] == ["influence", "refit 1, budget 0.3"]


def test_result_is_written_and_read(undisturbed):
    result, folder = undisturbed
    again = ParetoResult.load(folder / "result.safetensors")
    assert str(again) == str(result)
    assert_same(again, result)


def test_folder_of_a_search_makes_a_report(undisturbed, tmp_path):
    result, folder = undisturbed
    assert ParetoVerdict.load(folder / "verdict.safetensors").category_names == result.category_names
    page = write_report(folder, tmp_path / "report.html").read_text("utf-8")
    assert f"{np.nanmean(result.after):.1%}" in page or not result.accepted
    assert all(trial.name in page for trial in result.trials)
    assert "Samples to look at" in page
    assert all(attempt.name in page for attempt in result.attempts)


def test_search_prints_its_trials_and_its_result(tmp_path, capsys):
    tuner_in(tmp_path, verbose=True).fit(module(), Crowded(val=300))
    printed = capsys.readouterr().out
    assert f"[{EPOCHS:>4} of {5 * EPOCHS} epochs] first fit" in printed
    assert "Pareto improvement possible" in printed
    assert "epochs spent in" in printed
    result = ParetoResult.load(tmp_path / "search" / "result.safetensors")
    assert max(map(len, str(result).splitlines()[:-1])) <= 80  # but for the path of the model


def test_second_search_can_start_from_the_model_of_the_first(tmp_path):
    data = Crowded(val=300)
    first = tuner_in(tmp_path).fit(module(), data)
    again = tuner_in(tmp_path, refit="continue", include_validation=False).fit(
        module(), data, ckpt_path=first.ckpt_path
    )
    assert Path(again.ckpt_path).exists()
    assert again.after.mean() >= again.before.mean()


def test_given_checkpoint_and_validation_data_can_be_combined(tmp_path):
    data = Crowded(val=300)
    ordinary = trainer(tmp_path, max_epochs=EPOCHS)
    ordinary.fit(module(), datamodule=data)
    ordinary.save_checkpoint(tmp_path / "given.ckpt")
    tuner = tuner_in(tmp_path, include_validation=True, search="mass_preserving")
    result = tuner.fit(module(), data, ckpt_path=tmp_path / "given.ckpt")
    assert result.trials[-1].epochs == result.best_epoch > 0


@pytest.mark.parametrize("noise", [0.45, 0.0])
def test_validation_data_can_join_the_fits(tmp_path, monkeypatch, noise):
    given, last = [], FinalFits.last
    monkeypatch.setattr(FinalFits, "last", lambda self, *args: given.append(args) or last(self, *args))
    data, model = Crowded(val=300, noise=noise), module()
    if not noise:  # so few that the validation samples make a difference
        data.train = TensorDataset(*data.train[:100])
    tuner = tuner_in(tmp_path, include_validation=True)
    result = tuner.fit(model, data)
    assert result.epochs_spent <= 9 * EPOCHS
    names = [trial.name for trial in result.trials]
    assert names.count("refit with half 1, without weights") == names.count("refit with half 2, without weights") == 1
    ((epochs, finalist),) = given
    assert (epochs, finalist.from_all) == (result.best_epoch, result.weights)
    last = result.trials[-1]
    assert last.name == "last fit, validation data included"
    assert last.epochs == result.best_epoch
    assert np.isnan([last.macro, last.worst]).all(), "nothing is left to measure it"
    assert not np.isnan([trial.macro for trial in result.trials[:-1]]).any()
    assert "fitted with all of the validation data, so nothing is left that could measure it" in result.reason
    assert (result.weights is not None) == result.accepted == (noise > 0)
    if result.accepted:
        assert "The weights contribute +" in result.reason
        assert len(result.weights) == len(data.train)
    assert result.support.sum() == 300  # each half measures the fit with the other half
    saved = torch.load(result.ckpt_path, weights_only=True)["state_dict"]
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())


RATES = []


class Plateau(Plain):
    """Notes the learning rate of each epoch."""

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.02)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=1.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}

    def on_train_epoch_end(self):
        RATES.append(self.trainer.optimizers[0].param_groups[0]["lr"])


def test_schedule_that_will_see_training_data_is_reported_before_the_first_fit(tmp_path):
    """The search continues, and the schedule of the last fit acts on what it sees."""
    tuner = tuner_in(tmp_path, include_validation=True)
    text = (
        r"ReduceLROnPlateau watches 'val_loss'(.|\n)*later than in the measured fits(.|\n)*Use a schedule by epochs or"
    )
    with pytest.warns(UserWarning, match=text) as warned:
        result = tuner.fit(Plateau(), Crowded(val=300))
    assert sum("ReduceLROnPlateau" in str(each.message) for each in warned) == 1
    length = result.trials[-1].epochs
    assert RATES[-length] == 0.02
    assert length == 1 or RATES[-1] < 0.02


def test_interruption_says_how_to_resume_and_resuming_is_announced(tmp_path, capsys, monkeypatch):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "solve_mass_preserving", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tuner_in(tmp_path, verbose=True).fit(module(), Crowded(val=300))
    printed = capsys.readouterr().out
    kept = f"Finished trials are kept in {tmp_path / 'search' / 'trials'}. Start the script again to resume."
    assert f"The search was interrupted. {kept}" in printed
    monkeypatch.undo()
    tuner_in(tmp_path, verbose=True).fit(module(), Crowded(val=300))
    assert capsys.readouterr().out.startswith(f"Resuming the interrupted search in {tmp_path / 'search' / 'trials'}.")


@pytest.mark.parametrize(
    ("accepted", "underfitted", "joins", "advice"),
    [
        (True, True, False, "trainer.test(model, datamodule)"),
        (False, True, False, "train longer first"),
        (False, False, False, "ParetoTuner(…, include_validation=True)"),
        (False, False, True, "suspected_samples(tuner.influence)"),
    ],
)
def test_next_step_after_a_search(accepted, underfitted, joins, advice):
    text = next_step(SimpleNamespace(accepted=accepted), SimpleNamespace(underfitted=underfitted), joins)
    assert advice in text.replace("\n", " ")
    assert max(map(len, text.splitlines())) <= 80


def test_weighted_sampling_and_validation_data_are_refused_before_the_first_step(tmp_path):
    class Balanced(Crowded):
        def train_dataloader(self):
            loader = super().train_dataloader()
            size = len(loader.dataset)
            return DataLoader(loader.dataset, 32, sampler=WeightedRandomSampler([1.0] * size, size))

    class Untrained(Plain):
        def training_step(self, batch, batch_idx):
            raise AssertionError("a step was made")

    with pytest.raises(TypeError, match=r"with a WeightedRandomSampler.*leave out include_validation=True"):
        tuner_in(tmp_path, include_validation=True).fit(Untrained(), Balanced(val=300))


def test_results_are_under_the_trainers_root_by_default(tmp_path, monkeypatch):
    class Stops(Plain):
        def training_step(self, batch, batch_idx):
            raise KeyError("a step was made")

    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyError):
        tuner_in(tmp_path, dirpath=None).fit(Stops(), Crowded(val=300))
    assert (tmp_path / "user" / "pareto_tuner" / "trials").is_dir()
    assert not (tmp_path / "pareto_tuner").exists()
