"""The search for a better second fit, from the user's side."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning_pareto.integration.tuner.advice import next_step
from torch.utils.data import TensorDataset

from lightning_pareto import (
    ParetoCallback,
    ParetoResult,
    ParetoTuner,
    ParetoVerdict,
    write_report,
)
from lightning_pareto.data.synthetic import gaussian_classes
from lightning_pareto.integration.tuner import steps
from lightning_pareto.integration.tuner.trials import Trial, Trials
from lightning_pareto.integration.tuner.validation_data import joined
from lightning_pareto.reweighting.proposals import ProposalSolver
from tests.integration._models import CLASSES, Data, DictBatches, Dicts, Plain, datasets, trainer

EPOCHS = 3


class Crowded(Data):
    """Classes that overlap and swap labels in pairs, with a validation set that can tell: reweighting helps."""

    def __init__(self, noise=0.45, val=3000, distance=3.0):
        train = gaussian_classes(400, seed=1, distance=distance)
        generator = torch.Generator().manual_seed(1)
        wrong = (train.true % 2 == 0) & (torch.rand(400, generator=generator) < noise)
        given = torch.where(wrong, train.true + 1, train.true)
        super().__init__(TensorDataset(train.inputs, given), self.fresh(val, 2, distance))

    @staticmethod
    def fresh(size=5000, seed=3, distance=3.0):
        return gaussian_classes(size, seed=seed, distance=distance).dataset()


def module(kind=Plain):
    torch.manual_seed(0)
    return kind()


def tuner_in(tmp_path, *callbacks, **options):
    options = {"dirpath": tmp_path / "search", "verbose": False, "callback": ParetoCallback(verbose=False)} | options
    return ParetoTuner(lambda: trainer(tmp_path / "user", *callbacks, max_epochs=EPOCHS), **options)


def ordinary_weights(tmp_path):
    """Of a fit as the tuner makes it: the same seed, the best epoch."""
    trials = Trials(
        lambda: trainer(tmp_path / "user", max_epochs=EPOCHS),
        module(),
        Crowded(),
        ParetoCallback(),
        tmp_path / "ordinary",
        0,
    )
    path = trials.run(Trial("ordinary", "initial", None, keeps=True)).checkpoint
    return torch.load(path, weights_only=True)["state_dict"]


def accuracy(model, data):
    x, y = data.tensors
    model.eval()
    predicted = model(x).argmax(1)
    return np.array([float((predicted[y == k] == k).double().mean()) for k in range(CLASSES)])


def test_a_better_model_is_found_and_handed_back(tmp_path):
    data, model = Crowded(), module()
    tuner = tuner_in(tmp_path)
    result = tuner.fit(model, data)
    assert result.accepted
    assert result.after.mean() > result.before.mean() + 0.01
    fresh = Crowded.fresh()
    before = module()
    before.load_state_dict(ordinary_weights(tmp_path))
    assert accuracy(model, fresh).mean() > accuracy(before, fresh).mean() + 0.01  # on samples that nothing has seen
    saved = torch.load(result.ckpt_path, weights_only=True)["state_dict"]
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())
    assert tuner.verdict.improvable
    assert len(tuner.influence.labels) == len(result.weights) == 400
    assert result.epochs_spent == sum(trial.epochs for trial in result.trials) <= 6 * EPOCHS
    assert (result.p_values > 0.0125).all()
    assert str(result).startswith("Reweighted model accepted:\nthe mean accuracy changes by +")
    kept = list((tmp_path / "search").rglob("*.ckpt"))
    assert kept == [Path(result.ckpt_path)]


def test_nothing_is_accepted_on_clean_data_and_the_ordinary_model_is_handed_back(tmp_path):
    for seed in range(2):
        data, model = Crowded(noise=0.0, val=500, distance=2.0), module()
        result = tuner_in(tmp_path, seed=seed).fit(model, data)
        assert not result.accepted
        np.testing.assert_array_equal(result.before, result.after)
        np.testing.assert_allclose(accuracy(model, data.val), result.before, atol=1e-6)
        assert "ordinary model is handed back" in result.reason or "no weights" in result.reason


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A search that nothing interrupts, and its folder."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return tuner_in(folder).fit(module(), Crowded(val=300)), folder / "search"


def assert_same(one, two):
    assert one.trials == two.trials
    assert (one.weights is None) == (two.weights is None)
    if one.weights is not None:
        np.testing.assert_array_equal(one.weights.values, two.weights.values)
    np.testing.assert_array_equal(one.after, two.after)


def test_it_repeats_under_a_seed(tmp_path, undisturbed):
    assert_same(tuner_in(tmp_path).fit(module(), Crowded(val=300)), undisturbed[0])


class PowerCut(pl.Callback):
    """Fails in the given fit, counted over all."""

    count = 0

    def __init__(self, at):
        self.at = at

    def on_train_end(self, trainer, pl_module):
        PowerCut.count += 1
        if PowerCut.count == self.at:
            raise RuntimeError("power cut")


@pytest.mark.parametrize("at", [1, 2, 9])
def test_an_interrupted_search_goes_on(tmp_path, undisturbed, at):
    """No finished trial is made again, and the result is that of an undisturbed search."""
    expected = undisturbed[0]
    PowerCut.count = 0
    with pytest.raises(RuntimeError, match="power cut"):
        tuner_in(tmp_path, PowerCut(at)).fit(module(), Crowded(val=300))
    result = tuner_in(tmp_path, PowerCut(0)).fit(Plain(), Crowded(val=300))  # another random start: it does not matter
    assert PowerCut.count == len(expected.trials) + 1
    assert_same(result, expected)


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.integration.tuner.test_tuner import Crowded, module, tuner_in
result = tuner_in(Path({folder!r})).fit(module(), Crowded(val=300))
print(result.after.tolist())
"""


def test_a_killed_search_goes_on(tmp_path, undisturbed):
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT.format(root=root, folder=str(tmp_path))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while len(list(tmp_path.rglob("trial.safetensors"))) < 4 and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path.parent.name: path.stat().st_mtime_ns for path in tmp_path.rglob("trial.safetensors")}
    assert 4 <= len(finished) < 11
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kept = tmp_path / "search" / "finished"
    assert all((kept / name / "trial.safetensors").stat().st_mtime_ns == when for name, when in finished.items())
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), undisturbed[0].after)


def test_a_finished_search_starts_anew(tmp_path):
    first = tuner_in(tmp_path).fit(module(), Crowded(val=300))
    other = tuner_in(tmp_path).fit(module(), Crowded(val=300, noise=0.0))
    assert not np.array_equal(first.before, other.before)


def test_the_genetic_search_of_the_paper(tmp_path):
    """The weighted epoch itself, compared with the ordinary one."""
    tuner = tuner_in(tmp_path, search="genetic", targets=[0, 2], max_epochs_spent=EPOCHS + 14, population=4)
    result = tuner.fit(module(), Crowded(noise=0.3))
    assert result.epochs_spent <= EPOCHS + 14
    steps = [trial for trial in result.trials if trial.name == "epoch of the paper's LP"]
    assert len(steps) >= 8
    assert all(trial.epochs == 1 for trial in steps)
    if result.accepted:
        assert result.weights.values.mean() == pytest.approx(1)
        assert "paper's LP" in result.weights.metadata["proposal"]


def test_equal_weights_are_not_trained_twice(tmp_path, monkeypatch):
    """A search that proposes the same thresholds for ever ends, at one epoch."""

    class Stubborn:
        def __init__(self, categories, population, seed):
            self.alpha = np.full(categories, 0.5)

        def ask(self):
            return [self.alpha] * 4

        def tell(self, thresholds, fitness):
            pass

    monkeypatch.setattr(steps, "GeneticSearch", Stubborn)
    result = tuner_in(tmp_path, search="genetic", max_epochs_spent=EPOCHS + 20).fit(module(), Crowded(val=300))
    assert [trial.name for trial in result.trials].count("epoch of the paper's LP") == 1


def test_course_correction_takes_the_last_epoch_again(tmp_path):
    result = tuner_in(tmp_path, mode="course_correction", max_epochs_spent=EPOCHS + 8).fit(module(), Crowded(val=300))
    names = [trial.name for trial in result.trials]
    assert names[2] == "ordinary epoch"
    fell = [trial.worst for trial in result.trials[1:3]]
    assert len(names) > 3 or (fell[1] >= fell[0] and not result.accepted)  # where nothing falls nothing is tried


def test_it_starts_from_a_checkpoint(tmp_path):
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


def test_dict_batches_and_categories_of_the_users_own(tmp_path):
    callback = ParetoCallback(categories=parity, category_names=["even", "odd"])
    result = tuner_in(tmp_path, callback=callback).fit(module(DictBatches), SomeDicts())
    assert result.category_names == ("even", "odd")
    assert result.support.tolist() == [(SomeDicts().val.y % 2 == k).sum() for k in range(2)]


def test_several_measures_and_targets_by_name(tmp_path):
    callback = ParetoCallback(class_names=["a", "b", "c", "d"])
    tuner = tuner_in(tmp_path, callback=callback, measures=["loss", "soft_error"], targets="c")
    result = tuner.fit(module(), Crowded(val=300))
    assert [trial.name for trial in result.trials][1:3] == ["influence on the loss", "influence on the soft_error"]
    assert any("soft_error, budget" in trial.name for trial in result.trials[3:])
    assert any("loss, budget" in trial.name for trial in result.trials[3:])


def test_the_result_is_written_and_read(undisturbed):
    result, folder = undisturbed
    again = ParetoResult.load(folder / "result.safetensors")
    assert str(again) == str(result)
    assert_same(again, result)


def test_the_folder_of_a_search_makes_a_report(undisturbed, tmp_path):
    result, folder = undisturbed
    assert ParetoVerdict.load(folder / "verdict.safetensors").category_names == result.category_names
    page = write_report(folder, tmp_path / "report.html").read_text("utf-8")
    assert f"{np.nanmean(result.after):.1%}" in page or not result.accepted
    assert all(trial.name in page for trial in result.trials)
    assert "Harmful samples" in page


def test_what_it_says(tmp_path, capsys):
    tuner_in(tmp_path, verbose=True).fit(module(), Crowded(val=300))
    said = capsys.readouterr().out
    assert f"[{EPOCHS:>4} of {6 * EPOCHS} epochs] first fit" in said
    assert "Pareto improvement possible" in said
    assert "epochs spent in" in said
    result = ParetoResult.load(tmp_path / "search" / "result.safetensors")
    assert max(map(len, str(result).splitlines()[:-1])) <= 80  # the last line is a path


def test_a_second_round_may_start_from_the_model_of_the_first(tmp_path):
    data = Crowded(val=300)
    first = tuner_in(tmp_path).fit(module(), data)
    again = tuner_in(tmp_path, refit="continue", include_validation=False).fit(
        module(), data, ckpt_path=first.ckpt_path
    )
    assert Path(again.ckpt_path).exists()
    assert again.after.mean() >= again.before.mean()


def test_a_given_checkpoint_may_be_joined_with_the_validation_data(tmp_path):
    data = Crowded(val=300)
    ordinary = trainer(tmp_path, max_epochs=EPOCHS)
    ordinary.fit(module(), datamodule=data)
    ordinary.save_checkpoint(tmp_path / "given.ckpt")
    tuner = tuner_in(tmp_path, include_validation=True, search="screening")
    result = tuner.fit(module(), data, ckpt_path=tmp_path / "given.ckpt")
    assert result.trials[-1].epochs == result.best_epoch > 0


@pytest.mark.parametrize("noise", [0.45, 0.0])
def test_the_validation_data_may_join_the_fits(tmp_path, monkeypatch, noise):
    given, last = [], steps.LastFits.last
    monkeypatch.setattr(steps.LastFits, "last", lambda self, *args: given.append(args) or last(self, *args))
    data, model = Crowded(val=300, noise=noise), module()
    if not noise:  # so few that those of the validation set are missed
        data.train = TensorDataset(*data.train[:100])
    tuner = tuner_in(tmp_path, include_validation=True)
    result = tuner.fit(model, data)
    assert result.epochs_spent <= 9 * EPOCHS
    names = [trial.name for trial in result.trials]
    assert names.count("refit with half 1, without weights") == names.count("refit with half 2, without weights") == 1
    ((epochs, weights),) = given
    assert (epochs, weights) == (result.best_epoch, result.weights)
    last = result.trials[-1]
    assert last.name == "last fit, validation data included"
    assert last.epochs == result.best_epoch
    assert np.isnan([last.macro, last.worst]).all(), "measured on what it was trained on"
    assert not np.isnan([trial.macro for trial in result.trials[:-1]]).any()
    assert "nothing is left that could measure it" in " ".join(result.reason.split())
    assert (result.weights is not None) == result.accepted == (noise > 0)
    if result.accepted:
        assert "Of that the weights bring" in result.reason
        assert len(result.weights) == len(data.train)
    assert result.support.sum() == 300  # each half measured what the other, and the training data, had made
    saved = torch.load(result.ckpt_path, weights_only=True)["state_dict"]
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())


RATES = []


class Plateau(Plain):
    """Notes at which rate every epoch is trained."""

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.02)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=1.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}

    def on_train_epoch_end(self):
        RATES.append(self.trainer.optimizers[0].param_groups[0]["lr"])


def test_a_schedule_that_will_see_training_data_is_warned_of_before_the_first_fit(tmp_path):
    """The last fit goes on: its schedule acts, on what it sees."""
    tuner = tuner_in(tmp_path, include_validation=True)
    with pytest.warns(UserWarning, match="ReduceLROnPlateau watches 'val_loss'(.|\n)*later than in the fits") as said:
        result = tuner.fit(Plateau(), Crowded(val=300))
    assert sum("ReduceLROnPlateau" in str(each.message) for each in said) == 1
    length = result.trials[-1].epochs
    assert RATES[-length] == 0.02
    assert length == 1 or RATES[-1] < 0.02


@pytest.mark.filterwarnings("ignore:.*pin_memory")
@pytest.mark.parametrize("kind", ["class", "from_datasets"])
def test_joined_data_are_all_samples_once(kind):
    data = Data(val=datasets()[1])
    if kind == "from_datasets":
        data = pl.LightningDataModule.from_datasets(data.train, data.val, batch_size=32)
    train, val = (dataset.tensors[0] for dataset in datasets()[:2])
    some = np.arange(len(val)) % 3 == 0
    for chosen, left in ((some, val[~some]), (np.ones(len(val), dtype=bool), val)):
        both = joined(data, 0, chosen)
        seen = torch.cat([x for x, _ in both.train_dataloader()])
        assert sorted(seen.tolist()) == sorted(torch.cat([train, val[chosen]]).tolist())
        assert torch.equal(torch.cat([x for x, _ in both.val_dataloader()]), left)
    assert sum(len(y) for _, y in data.train_dataloader()) == 240  # the user's own is as it was
    assert sum(len(y) for _, y in data.val_dataloader()) == len(val)


@pytest.mark.parametrize("kind", [list, dict])
def test_only_the_chosen_validation_loader_gives_samples_away(kind):
    class Several(Data):
        def val_dataloader(self):
            loaders = [super(Several, self).val_dataloader() for _ in range(2)]
            return loaders if kind is list else dict(zip("ab", loaders, strict=True))

    size = len(datasets()[1])
    both = joined(Several(val=datasets()[1]), 1, np.arange(size) < 10)
    found = both.val_dataloader()
    first, second = found if kind is list else (found["a"], found["b"])
    assert (len(first.dataset), len(second.dataset)) == (size, size - 10)
    assert sum(len(y) for _, y in both.train_dataloader()) == 240 + 10


def test_an_interruption_says_that_the_trials_are_kept(tmp_path, capsys, monkeypatch):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(ProposalSolver, "distinct", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tuner_in(tmp_path, verbose=True).fit(module(), Crowded())
    said = capsys.readouterr().out
    assert f"The trials that are finished are kept in {tmp_path}" in said.replace("\n", " ")
    assert "start the script again" in said


@pytest.mark.parametrize(
    ("accepted", "underfitted", "joins", "said"),
    [
        (True, True, False, "trainer.test(model, datamodule)"),
        (False, True, False, "train longer first"),
        (False, False, False, "ParetoTuner(…, include_validation=True)"),
        (False, False, True, "suspected_samples(tuner.influence)"),
    ],
)
def test_what_to_do_next(accepted, underfitted, joins, said):
    told = next_step(SimpleNamespace(accepted=accepted), SimpleNamespace(underfitted=underfitted), joins)
    assert said in told.replace("\n", " ")
    assert max(map(len, told.splitlines())) <= 80
