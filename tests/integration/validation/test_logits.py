"""The logits of validation batches: taken from the user's own validation step, or from one more forward pass."""

import copy
import pickle

import pytest
import torch

from lightning_pareto import ClassificationTask, ParetoCallback
from lightning_pareto.influence.task import default_logits
from tests.integration._models import CLASSES, Data, DictBatches, Dicts, Failing, Inner, Plain, datasets, trainer


@pytest.mark.parametrize("model", [Plain, Inner])
def test_logits_of_the_step_and_of_a_pass_of_its_own_agree(tmp_path, model):
    torch.manual_seed(0)
    fitted = trainer(tmp_path, ParetoCallback(analyse=False), max_epochs=1)
    fitted.fit(model(), datamodule=Data())
    torch.manual_seed(0)
    again = trainer(tmp_path, ParetoCallback(analyse=False), max_epochs=1)
    again.fit(Plain(), datamodule=Data())
    assert fitted.callback_metrics["val_accuracy_macro"] == again.callback_metrics["val_accuracy_macro"]


def test_listening_costs_no_forward_pass(tmp_path):
    calls = []
    model = Plain()
    model.network.register_forward_hook(lambda module, *_: None if module.training else calls.append(1))
    trainer(tmp_path, ParetoCallback(analyse=False), max_epochs=1, num_sanity_val_steps=0).fit(model, datamodule=Data())
    assert len(calls) == 3  # 120 samples in batches of 50


class Popping(DictBatches):
    """Takes what it needs out of the batch."""

    def validation_step(self, batch, batch_idx):
        labels = batch.pop("labels")
        loss = torch.nn.functional.cross_entropy(self.network(batch.pop("features")), labels)
        self.log("val_loss", loss, batch_size=len(labels))


def test_validation_step_may_empty_the_batch(tmp_path):
    """The labels are read before the step, and the model runs on a copy of the dict."""
    train, val = datasets()
    fitted = trainer(tmp_path, ParetoCallback(analyse=False), max_epochs=1)
    fitted.fit(Popping(), datamodule=Data(Dicts(train), Dicts(val)))
    assert sum(float(fitted.callback_metrics[f"val_support/{k}"]) for k in range(CLASSES)) == 120


def test_error_in_a_validation_step_leaves_nothing_behind(tmp_path):
    callback, model = ParetoCallback(analyse=False), Failing()
    with pytest.raises(RuntimeError, match="no second batch"):
        trainer(tmp_path, callback, num_sanity_val_steps=0).fit(model, datamodule=Data())
    assert not model._forward_hooks
    pickle.loads(pickle.dumps(callback))
    copy.deepcopy(callback)
    fitted = trainer(tmp_path, callback, max_epochs=1)
    fitted.fit(Plain(), datamodule=Data())
    assert sum(float(fitted.callback_metrics[f"val_support/{name}"]) for name in Data().train.classes) == 120


class CopiesItself(Plain):
    """Copies callback and module in the middle of a batch, while the callback listens."""

    copied = 0

    def __init__(self):
        super().__init__()
        self.register_forward_hook(lambda *_: None)  # the user's, which cannot be pickled and need not be

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        for callback in self.trainer.callbacks:
            if isinstance(callback, ParetoCallback):
                pickle.loads(pickle.dumps(callback))
                copy.deepcopy(callback)
                (listening,) = (hook for hook in self._forward_hooks.values() if hasattr(hook, "__self__"))
                pickle.dumps(listening)
                type(self).copied += 1


def test_callback_can_be_copied_at_any_time(tmp_path):
    callback = ParetoCallback(verbose=False)
    trainer(tmp_path, callback).fit(CopiesItself(), datamodule=Data())
    assert CopiesItself.copied > 0
    for twin in (pickle.loads(pickle.dumps(callback)), copy.deepcopy(callback)):
        assert str(twin.verdict) == str(callback.verdict)


def note_dtype(seen):
    def logits(module, batch):
        value = default_logits(module, batch)
        seen.append(value.dtype)
        return value

    return logits


def test_forward_pass_of_its_own_has_the_trainers_precision(tmp_path):
    seen = []
    callback = ParetoCallback(task=ClassificationTask(logits=note_dtype(seen)), analyse=False)
    trainer(tmp_path, callback, precision="bf16-mixed", max_epochs=1).fit(Inner(), datamodule=Data())
    assert set(seen) == {torch.bfloat16}
