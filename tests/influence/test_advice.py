"""Advice on batches that cannot be read names the task, or is code that works when it is pasted."""

import re
import textwrap

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_pareto import BatchError, ClassificationTask, estimate_influence
from tests._oracles import loader

X, Y = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
TOKENS = torch.arange(24).reshape(8, 3)
BINARY = Y.float()


class Output:
    def __init__(self, logits):
        self.logits = logits


class Plainly(nn.Linear):
    """Returns logits without an output around them."""

    def forward(self, input):  # noqa: A002
        return super().forward(input)


class ByName(nn.Linear):
    """Takes its inputs by name and returns an output with logits, as in transformers."""

    def forward(self, x):
        return Output(super().forward(x))


def read(task, module, batch):
    return task.read_logits(module, batch, task.read_targets(batch))


def error_on(batch, outputs=2, module=nn.Linear, **task):
    with pytest.raises(BatchError) as caught:
        read(ClassificationTask(**task), module(5, outputs), batch)
    return str(caught.value)


def described_in(error):
    """The task that the code in an error makes."""
    code = re.search(r"ClassificationTask:\n\n(.*)\n\nand pass", error, re.DOTALL)[1]
    scope = {}
    exec(re.sub("^    ", "", code, flags=re.MULTILINE), scope)
    return scope["task"]


@pytest.mark.parametrize(
    ("batch", "outputs", "module"),
    [
        ((X, Y, torch.arange(8)), 2, nn.Linear),
        ((X, torch.rand(8), Y), 2, nn.Linear),
        ((X, Y[:, None]), 2, nn.Linear),
        ((X, nn.functional.one_hot(Y)), 2, nn.Linear),
        ((X, nn.functional.one_hot(Y).float()), 2, nn.Linear),
        ({"image": X, "target": Y}, 2, nn.Linear),
        ({"index": torch.arange(8), "site": Y, "image": X, "target": Y}, 2, nn.Linear),
        ({"pixels": X, "id": torch.arange(8) + 100, "quality": Y}, 2, nn.Linear),
        ({"pixels": X, "number": torch.arange(8) + 100, "quality": Y}, 2, nn.Linear),
        ({"x": X, "labels": Y[:, None]}, 2, ByName),
        ((X, Y), 1, nn.Linear),
        ((X, BINARY), 1, nn.Linear),
        ((X, BINARY[:, None]), 1, nn.Linear),
        ({"x": X, "labels": Y}, 1, ByName),
        ({"image": X, "label": BINARY}, 1, nn.Linear),
        ({"input": X, "labels": BINARY}, 1, Plainly),
        ((X, BINARY, torch.arange(8)), 1, nn.Linear),
    ],
)
def test_code_in_the_error_works_when_it_is_pasted(batch, outputs, module):
    task, network = described_in(error_on(batch, outputs, module)), module(5, outputs)
    assert task.read_targets(batch).tolist() == Y.tolist()
    logits = read(task, network, batch)
    assert logits.shape == (8, 2)
    if outputs == 1:
        z = network.forward(X)
        z = (z.logits if isinstance(z, Output) else z).squeeze(1)
        expected = nn.functional.binary_cross_entropy_with_logits(z, BINARY, reduction="none")
        torch.testing.assert_close(task.loss(logits, Y), expected)


@pytest.mark.parametrize(
    ("batch", "task"),
    [
        ((X, torch.zeros(8, 4, 4).long()), "segmentation"),
        ((X, torch.rand(8, 4, 4)), "regression of every pixel"),
        ((X, torch.tensor([[1.0, 1.0, 0.0]] * 8)), "multi-label classification"),
        ((X, torch.tensor([[1, 1, 0]] * 8)), "multi-label classification"),
        ((X, torch.linspace(0, 1, 8)), "regression"),
        ((X, torch.linspace(0, 9, 8)[:, None]), "regression"),
        ((X, torch.linspace(0, 9, 24).reshape(8, 3)), "regression of several values"),
        ((X, torch.tensor([[[[1.0, 0.0]]]] * 8)), "segmentation"),
        ({"input_ids": TOKENS + 1, "labels": TOKENS}, "token tagging or language modelling"),
        (((X, X + 1), Y), "self-supervised learning (several views"),
        ((X, X + 1), "a batch without labels"),
    ],
)
def test_other_tasks_are_named(batch, task):
    error = error_on(batch)
    assert f"This looks like {task}" in error
    assert "which is not supported" in error
    assert "\n" not in error, "no code that could not work"


def test_single_output_for_labels_that_are_not_binary_is_regression():
    assert "This looks like regression" in error_on((X, torch.arange(8)), outputs=1)


def test_whole_numbers_may_be_classes_or_not():
    error = error_on((X, torch.arange(8.0)), outputs=8)
    assert "Regression is not supported. If these are classes:" in error
    assert read(described_in(error), nn.Linear(5, 8), (X, torch.arange(8.0))).shape == (8, 8)


def test_number_that_may_be_the_target_is_pointed_out():
    assert "If batch[1] is the target, this is regression" in error_on((X, torch.rand(8), Y))


def test_functions_of_the_user_are_to_be_extended():
    error = error_on({"x": X, "y": BINARY[:, None]}, targets=lambda batch: batch["y"])
    assert "Append .squeeze(1).long() to what targets=… returns" in error
    error = error_on({"x": X, "y": Y}, outputs=1, targets=lambda b: b["y"], logits=lambda m, b: m(b["x"]))
    assert "logits=lambda module, batch: torch.nn.functional.pad(….reshape(-1, 1), (1, 0))" in error
    assert "Describe" not in error


def code_of(message):
    """The task that an error's code makes."""
    lines = message[message.index("    from lightning_pareto") : message.index("    )\n") + 6]
    names = {}
    exec(textwrap.dedent(lines), names)
    return names["task"]


@pytest.mark.parametrize("train_soft", [True, False])
@pytest.mark.parametrize("val_soft", [True, False])
@pytest.mark.parametrize("mixed", [True, False])
def test_code_for_labels_in_rows_serves_both_loaders(train_soft, val_soft, mixed):
    x, y = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
    rows = F.one_hot(y, 3).float()
    rows = 0.8 * rows + 0.2 * rows.roll(1, 0) if mixed else rows
    loaders = [loader(x + shift, rows if soft else y) for shift, soft in ((0, train_soft), (1, val_soft))]
    module = nn.Linear(4, 3)
    if not train_soft and not val_soft:
        estimate_influence(module, *loaders)
        return
    with pytest.raises(BatchError, match="soft labels .MixUp" if mixed else "If each row marks one class") as error:
        estimate_influence(module, *loaders)
    if mixed:
        assert "train_dataloader=DataLoader(dataset" in str(error.value)
    found = estimate_influence(module, *loaders, task=code_of(str(error.value)))
    assert found.labels.tolist() == y.tolist()
