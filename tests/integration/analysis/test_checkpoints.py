"""Influence at the best checkpoint, or at the last weights if that cannot be loaded."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from lightning_pareto import ParetoCallback, estimate_influence
from tests.integration._models import Data, Plain, trainer


class Ageing(Plain):
    """Monitors its age, so its first epoch is the best."""

    def on_validation_epoch_end(self):
        self.log("age", float(self.current_epoch))


def test_influence_is_computed_at_the_best_checkpoint_and_the_last_weights_stay(tmp_path):
    data = Data()
    best = ModelCheckpoint(tmp_path / "one", monitor="age", mode="min")  # the "best" is the first epoch

    callback, model = ParetoCallback(verbose=False), Ageing()
    trainer(tmp_path, callback, best, max_epochs=3, enable_checkpointing=True).fit(model, datamodule=data)
    at_best = Plain()
    at_best.load_state_dict(torch.load(best.best_model_path, weights_only=True)["state_dict"])
    assert not torch.equal(at_best.network[0].weight, model.network[0].weight)
    expected = estimate_influence(at_best, data.train_dataloader(), data.val_dataloader())
    np.testing.assert_array_equal(callback.influence.scores, expected.scores)
    assert callback.influence.metadata["checkpoint"].startswith("epoch=0")
    last = ParetoCallback(checkpoint="last", verbose=False)
    another = ModelCheckpoint(tmp_path / "another", monitor="age", mode="min")
    trainer(tmp_path, last, another, max_epochs=1, enable_checkpointing=True).fit(model, datamodule=data)
    assert last.influence.metadata["checkpoint"] == "last weights"


class Improving(Ageing):
    """Monitors how young it is, so its last epoch is the best, and the longer fit is better than the shorter one."""

    def on_validation_epoch_end(self):
        self.log("age", -float(self.current_epoch))


SAME_FOLDER = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


@SAME_FOLDER
@pytest.mark.parametrize("checkpoint", ["best", "kept"])
def test_checkpoints_of_an_earlier_fit_are_left_out(tmp_path, checkpoint):
    shared = ModelCheckpoint(tmp_path / "one", monitor="age", mode="min", save_top_k=1)
    callback, second = ParetoCallback(checkpoint=checkpoint, verbose=False), Improving()
    trainer(tmp_path, callback, shared, max_epochs=3, enable_checkpointing=True).fit(Improving(), datamodule=Data())
    assert callback.influence.metadata["checkpoint"].startswith("epoch=2")
    with pytest.warns(UserWarning, match="from an earlier fit"):
        trainer(tmp_path, callback, shared, max_epochs=2, enable_checkpointing=True).fit(second, datamodule=Data())
    assert callback.influence.metadata["checkpoint"] == "last weights"


@SAME_FOLDER
def test_fit_that_goes_on_knows_its_checkpoints(tmp_path):
    best = ModelCheckpoint(tmp_path / "one", monitor="age", mode="min")  # the first epoch
    callback, model = ParetoCallback(verbose=False), Ageing()
    fitted = trainer(tmp_path, callback, best, max_epochs=2, enable_checkpointing=True)
    fitted.fit(model, datamodule=Data())
    fitted.fit_loop.max_epochs = 3
    fitted.fit(model, datamodule=Data())
    assert callback.influence.metadata["checkpoint"].startswith("epoch=0")


class Spoil(Callback):
    """Damages the best checkpoint before the analysis."""

    def __init__(self, best, how):
        self.best, self.how = best, how

    def on_train_end(self, trainer, pl_module):
        self.how(self.best)


def rewrite(change):
    def how(best):
        checkpoint = torch.load(best.best_model_path, weights_only=True)
        change(checkpoint)
        torch.save(checkpoint, best.best_model_path)

    return how


def truncate(best):
    with Path(best.best_model_path).open("r+b") as file:
        file.truncate(1000)


def remove(best):
    best.best_model_path = best.best_model_path + ".gone"


def move_away(best):
    best.best_model_path = "s3://bucket/" + best.best_model_path


class Unsafe:
    pass


SPOILED = {
    "missing": remove,
    "remote": move_away,
    "truncated": truncate,
    "another format": rewrite(lambda checkpoint: checkpoint.pop("state_dict")),
    "unpicklable": rewrite(lambda checkpoint: checkpoint.update(hyper_parameters=Unsafe())),
    "other keys": rewrite(lambda checkpoint: checkpoint["state_dict"].pop("network.0.bias")),
    "other shapes": rewrite(lambda checkpoint: checkpoint["state_dict"].update({"network.3.bias": torch.ones(7)})),
}


@pytest.mark.parametrize("how", SPOILED.values(), ids=SPOILED)
def test_last_weights_replace_a_checkpoint_that_cannot_be_loaded(tmp_path, how):
    best = ModelCheckpoint(tmp_path / "best", monitor="age", mode="min")
    callback, model, data = ParetoCallback(verbose=False), Ageing(), Data()
    match = r"cannot be loaded \(\w+: .*\): influence is computed at the last weights instead\. It (must be|holds)"
    with pytest.warns(UserWarning, match=match) as recorded:
        trainer(tmp_path, Spoil(best, how), callback, best, enable_checkpointing=True).fit(model, datamodule=data)
    (message,) = [str(w.message) for w in recorded if "cannot be loaded" in str(w.message)]
    assert message.endswith("or choose ParetoCallback(checkpoint='last')")
    assert ("save_hyperparameters(ignore=[…])" in message) == (how is SPOILED["unpicklable"])
    assert message.isprintable()
    assert callback.influence.metadata["checkpoint"] == "last weights"
    expected = estimate_influence(model, data.train_dataloader(), data.val_dataloader())
    np.testing.assert_array_equal(callback.influence.scores, expected.scores)


class Extra(Ageing):
    """Has extra state that is not a tensor, and a part that is not in its checkpoints."""

    def __init__(self):
        super().__init__()
        self.frozen = torch.nn.Linear(1, 1).requires_grad_(False)
        self.strict_loading = False
        self.notes = {"epochs": 0}

    def on_train_epoch_end(self):
        self.notes["epochs"] += 1

    def get_extra_state(self):
        return self.notes

    def set_extra_state(self, state):
        self.notes.update(state)

    def state_dict(self, *args, **kwargs):
        whole = super().state_dict(*args, **kwargs)
        return {name: value for name, value in whole.items() if not name.startswith("frozen")}


def test_extra_state_and_partial_checkpoints_work(tmp_path):
    best = ModelCheckpoint(tmp_path / "best", monitor="age", mode="min")
    callback, model, data = ParetoCallback(verbose=False), Extra(), Data()
    trainer(tmp_path, callback, best, max_epochs=3, enable_checkpointing=True).fit(model, datamodule=data)
    assert callback.influence.metadata["checkpoint"].startswith("epoch=0")
    assert model.notes == {"epochs": 3}, "restored with the last weights"


def test_checkpoint_is_loaded_to_the_cpu(tmp_path, monkeypatch):
    """The devices that it was saved on may be full or missing."""
    read, load = [], torch.load

    def note(*args, **options):
        read.append(options)
        return load(*args, **options)

    best = ModelCheckpoint(tmp_path / "best", monitor="age", mode="min")
    spoil = Spoil(best, lambda _: monkeypatch.setattr(torch, "load", note))
    trainer(tmp_path, spoil, ParetoCallback(verbose=False), best, enable_checkpointing=True).fit(
        Ageing(), datamodule=Data()
    )
    assert read == [{"map_location": "cpu", "weights_only": True}]
