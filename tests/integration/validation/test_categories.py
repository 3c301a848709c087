"""Accuracy by category in the loggers, where the categories are not the classes."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_pareto import ParetoCallback
from tests.integration._models import Data, DictBatches, Dicts, Plain, datasets, trainer

NAMES = ["near", "middle", "far", "nobody"]


def ring(x):
    """Three rings around the origin: others than the four classes."""
    return torch.bucketize(x.norm(dim=1), torch.tensor([2.0, 3.5], device=x.device))


def rings(batch):
    return ring(batch[0])


def logging(**options):
    return ParetoCallback(**{"analyse": False, "categories": rings, "category_names": NAMES, **options})


def expected(model, x, y, names=NAMES, prefix="val_"):
    """What is logged of these samples, counted one by one."""
    hits = {name: [] for name in names}
    with torch.no_grad():
        right = model.eval()(x.to(model.device)).argmax(1).cpu() == y
    for category, hit in zip(ring(x).tolist(), right.tolist(), strict=True):
        hits[names[category]].append(hit)
    accuracy = {name: sum(found) / len(found) for name, found in hits.items() if found}
    named = {
        **{f"support/{name}": len(found) for name, found in hits.items()},
        **{f"accuracy/{name}": value for name, value in accuracy.items()},
        "accuracy_macro": sum(accuracy.values()) / len(accuracy),
        "accuracy_worst": min(accuracy.values()),
    }
    return {f"{prefix}category_{name}": pytest.approx(value) for name, value in named.items()}


def logged(found):
    return {name: float(value) for name, value in found.items() if "category" in name}


class History(Callback):
    """Keeps what each validation has logged and what was to be expected."""

    def __init__(self, samples):
        self.samples, self.epochs = samples, []

    def on_validation_end(self, trainer, pl_module):
        if trainer.sanity_checking:
            assert logged(trainer.callback_metrics) == {}
        else:
            state = torch.get_rng_state()
            self.epochs.append((logged(trainer.callback_metrics), expected(pl_module, *self.samples)))
            torch.set_rng_state(state)


@pytest.mark.parametrize("options", [{}, {"limit_val_batches": 2}, {"val_check_interval": 0.5}])
def test_accuracy_of_every_category_is_logged_at_every_validation(tmp_path, options):
    x, y = (part[: 100 if "limit_val_batches" in options else None] for part in datasets()[1].tensors)
    history = History((x, y))
    trainer(tmp_path, logging(), history, num_sanity_val_steps=2, **options).fit(Plain(), datamodule=Data())
    assert len(history.epochs) == (4 if "val_check_interval" in options else 2)
    for found, right in history.epochs:
        assert found == right
        assert found["val_category_support/nobody"] == 0
        assert "val_category_accuracy/nobody" not in found


def test_metrics_of_the_classes_stay_as_they_are(tmp_path):
    found = []
    for options in ({}, {"categories": None, "category_names": None}):
        torch.manual_seed(0)
        fitted = trainer(tmp_path, logging(**options))
        fitted.fit(Plain(), datamodule=Data())
        found.append({name: float(value) for name, value in fitted.callback_metrics.items() if "category" not in name})
    assert found[0] == found[1]
    assert not logged(fitted.callback_metrics)


def test_categories_without_names_have_numbers_up_to_the_largest_one_seen(tmp_path):
    _, val = datasets()
    callback, model = logging(category_names=None), Plain()
    fitted = trainer(tmp_path, callback, max_epochs=1)
    fitted.fit(model, datamodule=Data())
    assert logged(fitted.callback_metrics) == expected(model, *val.tensors, names=["0", "1", "2"])
    near = ring(val.tensors[0]) == 0
    x, y = (part[near] for part in val.tensors)
    (found,) = fitted.validate(model, DataLoader(TensorDataset(x, y), batch_size=32), verbose=False)
    assert logged(found) == expected(model, x, y, names=["0"])


def test_validate_returns_them(tmp_path):
    model, fitted = Plain(), trainer(tmp_path, logging(prefix="mine_"))
    (found,) = fitted.validate(model, datamodule=Data(), verbose=False)
    assert logged(found) == expected(model, *datasets()[1].tensors, prefix="mine_")


class Popping(DictBatches):
    """Takes what it needs out of the batch."""

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self(batch.pop("features"), batch.pop("labels")).loss, batch_size=50)


def test_batch_is_whole_although_the_validation_step_empties_it(tmp_path):
    callback = logging(categories=lambda batch: ring(batch["features"]))
    train, val = datasets()
    fitted = trainer(tmp_path, callback, max_epochs=1)
    fitted.fit(Popping(), datamodule=Data(Dicts(train), Dicts(val)))
    counts = torch.bincount(ring(val.tensors[0])).tolist()
    assert [float(fitted.callback_metrics[f"val_category_support/{name}"]) for name in NAMES] == [*counts, 0]


def test_worst_category_can_be_monitored(tmp_path):
    kept = ModelCheckpoint(tmp_path, monitor="val_category_accuracy_worst", mode="max")
    fitted = trainer(tmp_path, logging(), kept, enable_checkpointing=True)
    fitted.fit(Plain(), datamodule=Data())
    assert kept.best_model_score is not None


class LogsItself(Plain):
    """Logs a name of the callback's."""

    def on_validation_epoch_end(self):
        self.log("val_category_accuracy_worst", 0.123)


def test_name_that_the_module_logs_is_refused_before_training_and_in_validate(tmp_path):
    for act in ("fit", "validate"):
        fitted = trainer(tmp_path, logging(), num_sanity_val_steps=1)
        with pytest.raises(ValueError, match=r"val_category_accuracy_worst is logged by ParetoCallback"):
            getattr(fitted, act)(LogsItself(), datamodule=Data())
        assert fitted.global_step == 0
    fitted = trainer(tmp_path, logging(categories=None), num_sanity_val_steps=1)
    fitted.fit(LogsItself(), datamodule=Data())
    assert fitted.global_step > 0, "without categories the name is free"


@pytest.mark.parametrize("name", ["category_accuracy", "category_support"])
def test_metric_cannot_take_their_names(name):
    with pytest.raises(ValueError, match=f"'{name}' cannot be the name of a metric"):
        logging(metrics={name: "recall"})


def halves(batch):
    return (batch[0][:, 0] > 0).long()


def test_two_callbacks_with_different_categories_need_different_prefixes(tmp_path):
    other = {"categories": halves, "category_names": ["left", "right"]}
    with pytest.raises(ValueError, match=r"different categories under the same names(.|\n)*prefix='val_other_'"):
        trainer(tmp_path, logging(), logging(**other)).fit(Plain(), datamodule=Data())
    fitted = trainer(tmp_path, logging(), logging(), logging(categories=None), logging(**other, prefix="val_other_"))
    fitted.fit(Plain(), datamodule=Data())
    assert {"val_category_accuracy/near", "val_other_category_accuracy/left"} <= set(fitted.callback_metrics)


@pytest.mark.parametrize(
    ("categories", "names", "message"),
    [
        (lambda batch: torch.where(batch[0][:, 0] > 0, 3, 0), ["a"], r"in \[0, 1\), found 0 to 3"),
        (lambda batch: rings(batch) - 1, None, r"found -1 to 1"),
        (lambda batch: rings(batch) * 10**9, None, "2000000001 categories for 120 .*without gaps"),
        (rings, ["a", "b", "b"], "must be a list of different names"),
        (lambda batch: batch[0], None, "must return an integer tensor"),
    ],
)
def test_categories_that_do_not_fit_are_refused(tmp_path, categories, names, message):
    callback = logging(categories=categories, category_names=names)
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, callback).validate(Plain(), datamodule=Data(), verbose=False)
