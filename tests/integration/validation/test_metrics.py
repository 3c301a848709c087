"""Class-wise metrics against torchmetrics and scikit-learn."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from sklearn.metrics import precision_recall_fscore_support
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
    MulticlassSpecificity,
)

from lightning_pareto import CourseCorrection, ParetoCallback
from lightning_pareto.integration.validation.logged_values import CHANGES_SHOWN
from lightning_pareto.integration.validation.metrics import ClasswiseMetrics, chosen_metrics
from tests.integration._models import CLASSES, Data, Plain, datasets, trainer
from tests.integration.correction._spoilt import SPOILT, Spoils, SpoiltData

NAMED = ("accuracy", "precision", "recall", "f1")


def logging(metrics=NAMED, **options):
    return ParetoCallback(analyse=False, metrics=metrics, **options)


class History(Callback):
    """Keeps what each validation has logged, and the model's logits at that time."""

    def __init__(self, limit=None):
        self.epochs, self.logits, self.limit = [], [], limit

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            kept = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val_")}
            self.epochs.append(kept)
            with torch.no_grad():
                self.logits.append(pl_module(datasets()[1].tensors[0][: self.limit].to(pl_module.device)).cpu())


class Shy(Plain):
    """Never predicts the last class."""

    def forward(self, x):
        return self.network(x) - torch.tensor([0.0, 0.0, 0.0, 1e4], device=x.device)


@pytest.mark.parametrize("absent", [None, 1, 3])
@pytest.mark.filterwarnings("ignore:no validation samples of")
def test_named_metrics_are_those_of_scikit_learn_and_torchmetrics(tmp_path, absent):
    train, val = datasets()
    x, y = (part[val.tensors[1] != (-1 if absent is None else absent)] for part in val.tensors)
    model, fitted = Shy(), trainer(tmp_path, logging(), max_epochs=1)
    fitted.fit(model, datamodule=Data(train, TensorDataset(x, y)))
    logits, found = model.eval()(x).detach(), fitted.callback_metrics
    names = [name for k, name in enumerate(train.classes) if k != absent]
    rows = precision_recall_fscore_support(y, logits.argmax(1), labels=range(CLASSES), zero_division=0.0)
    kinds = MulticlassPrecision, MulticlassRecall, MulticlassF1Score, MulticlassAccuracy
    for name, row, kind in zip(("precision", "recall", "f1", "accuracy"), (*rows[:3], rows[1]), kinds, strict=True):
        other = kind(CLASSES, average=None)(logits, y)
        present = [k for k in range(CLASSES) if k != absent]
        for k in present:
            expected = [float(found[f"val_{name}/{train.classes[k]}"])] * 2
            assert expected == pytest.approx([row[k], float(other[k])], abs=1e-6)
        assert float(found[f"val_{name}_macro"]) == pytest.approx(row[present].mean(), abs=1e-6)
        assert float(found[f"val_{name}_worst"]) == pytest.approx(row[present].min(), abs=1e-6)
        assert {each for each in found if each.startswith(f"val_{name}/")} == {f"val_{name}/{each}" for each in names}
    assert "val_precision_change_worst" not in found


def test_padding_is_not_counted():
    logits, targets = torch.eye(3)[[0, 1, 2, 2, 1]], torch.tensor([0, 1, 1, 2, 0])
    own = MulticlassSpecificity(3, average=None)
    metrics = ClasswiseMetrics(chosen_metrics({"accuracy": "accuracy", "own": own}), torch.device("cpu"))
    for part, count in ((slice(0, 2), 2), (slice(2, 4), 1), (slice(4, 5), 0)):
        metrics.update(None, logits[part], targets[part], count)
    found = metrics.compute(SimpleNamespace(strategy=SimpleNamespace(reduce=lambda value, reduce_op: value)))
    assert found.support.tolist() == [1, 2, 0]
    np.testing.assert_array_equal(found.values["accuracy"], [1, 0.5, np.nan])
    np.testing.assert_allclose(found.values["own"][:2], own(logits[:3], targets[:3])[:2])


class FalsePositives(MulticlassSpecificity):
    higher_is_better = False

    def compute(self):
        return 1 - super().compute()


def test_metrics_of_the_user_under_their_own_names(tmp_path):
    own = {
        "sensitivity": "recall",
        "specificity": MulticlassSpecificity(CLASSES, average=None),
        "low": FalsePositives(CLASSES, average=None),
    }
    model, fitted = Plain(), trainer(tmp_path, logging({**own, "auroc": MulticlassAUROC(CLASSES, average=None)}))
    fitted.fit(model, datamodule=Data())
    x, y = datasets()[1].tensors
    logits, found = model.eval()(x).detach(), fitted.callback_metrics
    expected = MulticlassSpecificity(CLASSES, average=None)(logits, y)
    area = MulticlassAUROC(CLASSES, average=None)(logits, y)
    for k, name in enumerate(Data().train.classes):
        assert float(found[f"val_specificity/{name}"]) == pytest.approx(float(expected[k]))
        assert float(found[f"val_auroc/{name}"]) == pytest.approx(float(area[k]))
    assert float(found["val_specificity_worst"]) == pytest.approx(float(expected.min()))
    assert float(found["val_low_worst"]) == pytest.approx(float(1 - expected.min()))
    assert "val_sensitivity/north" in found
    assert "val_accuracy_macro" not in found
    assert not own["specificity"].update_called, "a copy is used"


def test_ignored_class_has_no_value(tmp_path):
    own = MulticlassRecall(CLASSES, average=None, ignore_index=1)
    model, fitted = Plain(), trainer(tmp_path, logging({"recall": own}))
    fitted.fit(model, datamodule=Data())
    x, y = datasets()[1].tensors
    hits, found, names = model.eval()(x).argmax(1) == y, fitted.callback_metrics, Data().train.classes
    expected = [float(hits[y == k].float().mean()) for k in range(CLASSES) if k != 1]
    assert f"val_recall/{names[1]}" not in found
    assert float(found["val_recall_worst"]) == pytest.approx(min(expected))
    assert float(found["val_recall_macro"]) == pytest.approx(sum(expected) / len(expected))


@pytest.mark.parametrize(
    "options",
    [
        {"num_sanity_val_steps": 2},
        {"val_check_interval": 0.5, "accumulate_grad_batches": 3, "limit_val_batches": 2},
        {"check_val_every_n_epoch": 2, "num_sanity_val_steps": 0},
    ],
)
def test_each_validation_is_counted_alone_and_compared_with_the_previous_one(tmp_path, options):
    history = History(limit=100 if "limit_val_batches" in options else None)
    trainer(tmp_path, logging(), history, max_epochs=4, **options).fit(Plain(), datamodule=Data())
    assert len(history.epochs) == (2 if "check_val_every_n_epoch" in options else 8 if len(options) == 3 else 4)
    y = datasets()[1].tensors[1][: history.limit]
    assert not [name for name in history.epochs[0] if "change" in name]
    before = None
    for found, logits in zip(history.epochs, history.logits, strict=True):
        after = MulticlassF1Score(CLASSES, average=None)(logits, y)
        for k, name in enumerate(Data().train.classes):
            assert found[f"val_f1/{name}"] == pytest.approx(float(after[k]), abs=1e-6)
            assert found[f"val_support/{name}"] == int((y == k).sum())
            if before is not None:
                assert found[f"val_f1_change/{name}"] == pytest.approx(float(after[k] - before[k]), abs=1e-6)
        if before is not None:
            assert found["val_f1_change_worst"] == pytest.approx(float((after - before).min()), abs=1e-6)
        before = after


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_resumed_fit_compares_with_the_validation_before_it(tmp_path):
    kept = ModelCheckpoint(tmp_path, save_last=True)
    whole, parts = History(), History()
    torch.manual_seed(0)
    trainer(tmp_path, logging(), whole, kept, enable_checkpointing=True).fit(Plain(lr=0.0), datamodule=Data())
    again = trainer(tmp_path, logging(), parts, kept, max_epochs=3, enable_checkpointing=True)
    again.fit(Plain(lr=0.05), datamodule=Data(), ckpt_path=kept.last_model_path)
    change = parts.epochs[0]["val_accuracy/north"] - whole.epochs[-1]["val_accuracy/north"]
    assert parts.epochs[0]["val_accuracy_change/north"] == pytest.approx(change, abs=1e-6)


def test_validate_counts_its_own_loader_and_logs_no_change(tmp_path):
    train, val = datasets()
    history, model, fitted = History(), Plain(), trainer(tmp_path, logging(("f1",)))
    fitted.callbacks.append(history)
    fitted.fit(model, datamodule=Data())
    other = TensorDataset(*(part[:70] for part in val.tensors))
    (found,) = fitted.validate(model, DataLoader(other, batch_size=32), verbose=False)
    x, y = other.tensors
    expected = MulticlassF1Score(CLASSES, average=None)(model.eval()(x).detach(), y)
    assert [found[f"val_f1/{name}"] for name in train.classes] == pytest.approx(expected.tolist())
    assert not [name for name in found if "change" in name]


def test_many_classes_log_only_their_worst_change(tmp_path):
    class Many(Plain):
        def __init__(self):
            super().__init__()
            self.network = nn.Linear(2, CHANGES_SHOWN + 1)

    fitted = trainer(tmp_path, logging(("accuracy",)))
    with pytest.warns(UserWarning, match="no validation samples of"):
        fitted.fit(Many(), datamodule=Data())
    found = fitted.callback_metrics
    assert "val_accuracy_change_worst" in found
    assert not [name for name in found if name.startswith("val_accuracy_change/")]


def test_rerun_is_compared_with_the_epoch_before(tmp_path):
    """And so is the epoch after a rerun that was not kept."""
    histories = []
    for callbacks in ([], [CourseCorrection(least_gain=0.999, max_corrections=1, verbose=False)]):
        torch.manual_seed(0)
        histories.append(History())
        fitted = trainer(tmp_path, Spoils(), *callbacks, logging(("accuracy",)), histories[-1], max_epochs=SPOILT + 3)
        fitted.fit(Plain(), datamodule=SpoiltData(share=0.7))
    assert callbacks[0].corrections
    plain, corrected = (history.epochs for history in histories)
    assert len(corrected) == len(plain) + 1
    assert corrected[SPOILT + 2 :] == plain[SPOILT + 1 :]
    again, earlier = corrected[SPOILT + 1], plain[SPOILT - 1]
    change = again["val_accuracy/east"] - earlier["val_accuracy/east"]
    assert again["val_accuracy_change/east"] == pytest.approx(change, abs=1e-6)


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        ("accuracy", TypeError, r"metrics=\['accuracy', 'f1'\]"),
        (["auroc"], ValueError, "unknown metric 'auroc'"),
        ({"support": "recall"}, ValueError, "cannot be the name"),
        ({"s": MulticlassSpecificity(3)}, ValueError, r"MulticlassSpecificity\(num_classes=3, average=None\)"),
        ({"mean": MeanMetric()}, ValueError, "does not take logits"),
        (
            {"s": MulticlassSpecificity(3, average=None, multidim_average="samplewise")},
            ValueError,
            "does not take logits",
        ),
    ],
)
def test_metrics_that_cannot_be_logged_are_refused_before_the_fit(tmp_path, metrics, error, message):
    with pytest.raises(error, match=message):
        trainer(tmp_path, logging(metrics), num_sanity_val_steps=1).fit(Plain(), datamodule=Data())


def test_metric_for_another_number_of_classes_says_how_many_there_are(tmp_path):
    callback = logging({"s": MulticlassSpecificity(3, average=None)})
    with pytest.raises(ValueError, match=r"MulticlassSpecificity\(num_classes=4, average=None\)"):
        trainer(tmp_path, callback, num_sanity_val_steps=1).fit(Plain(), datamodule=Data())


class LogsItself(Plain):
    """Logs a name of the callback's, in one hook or another."""

    def __init__(self, hook, **options):
        super().__init__()
        self.hook, self.options = hook, options

    def _log(self, hook):
        if hook == self.hook:
            self.log("val_accuracy_macro", 0.123, **self.options)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self._log("step")

    def on_validation_epoch_end(self):
        self._log("epoch end")


@pytest.mark.parametrize("hook", ["step", "epoch end"])
@pytest.mark.parametrize("options", [{}, {"prog_bar": True}])
def test_name_that_the_module_logs_is_refused_before_training(tmp_path, hook, options):
    model, fitted = LogsItself(hook, **options), trainer(tmp_path, logging(), num_sanity_val_steps=1)
    with pytest.raises(ValueError, match=r"val_accuracy_macro is logged by ParetoCallback(.|\n)*prefix="):
        fitted.fit(model, datamodule=Data())
    assert fitted.global_step == 0


def test_name_that_the_module_logs_is_refused_in_a_validation_of_its_own(tmp_path):
    with pytest.raises(ValueError, match=r"val_accuracy_macro is logged by ParetoCallback(.|\n)*prefix="):
        trainer(tmp_path, logging()).validate(LogsItself("epoch end"), datamodule=Data(), verbose=False)


def test_classes_without_a_value_are_no_shared_names(tmp_path):
    """Nothing has changed in the first validation, and one class is ignored."""
    own = MulticlassRecall(CLASSES, average=None, ignore_index=1)
    found = trainer(tmp_path, logging({"recall": own})).validate(Plain(), datamodule=Data(), verbose=False)
    assert "val_recall_macro" in found[0]


def test_prefix_keeps_names_apart(tmp_path):
    fitted = trainer(tmp_path, logging(prefix="val_class_"))
    fitted.fit(LogsItself("epoch end"), datamodule=Data())
    found = fitted.callback_metrics
    assert float(found["val_accuracy_macro"]) == pytest.approx(0.123)
    assert {"val_class_f1_macro", "val_class_f1/north", "val_class_support/north"} <= set(found)


def test_two_callbacks_can_watch_two_loaders(tmp_path):
    _, val = datasets()

    class Two(Plain):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            super().validation_step(batch, batch_idx)

    callbacks = [logging(["accuracy"], val_dataloader_idx=k, prefix=f"val_{k}_") for k in range(2)]
    other = TensorDataset(*(part[:60] for part in val.tensors))
    fitted = trainer(tmp_path, *callbacks, max_epochs=1)
    model = Two()
    fitted.fit(
        model, DataLoader(val, batch_size=32), [DataLoader(val, batch_size=32), DataLoader(other, batch_size=32)]
    )
    x, y = other.tensors
    expected = MulticlassAccuracy(CLASSES, average="macro")(model.eval()(x).detach(), y)
    assert float(fitted.callback_metrics["val_1_accuracy_macro"]) == pytest.approx(float(expected))
    same = [logging(val_dataloader_idx=k) for k in range(2)]
    with pytest.raises(ValueError, match="loaders 0 and 1 under the same names"):
        trainer(tmp_path, *same).fit(model, datamodule=Data())


def test_metrics_can_be_chosen_in_a_config_file(tmp_path):
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ParetoCallback, "pareto")
    config = tmp_path / "config.yaml"
    for text in ("[accuracy, f1]", "{accuracy: accuracy, sensitivity: recall}"):
        config.write_text(f"metrics: {text}\n")
        found = parser.parse_args([f"--pareto={config}"])
        instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # the older name
        parsed = instantiate(found)
        assert isinstance(parsed.pareto, ParetoCallback)
