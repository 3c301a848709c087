"""Advice on batches that cannot be read: the task that they look like, or their description as code."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

LABELS = ("labels", "label", "targets", "target", "y", "class", "classes", "category")
"""Names that an entry with the labels probably has."""

NO_LABELS = ("index", "idx", "indices", "id", "ids", "site", "group", "domain", "weight", "length", "lengths")
"""Names that rarely hold labels."""

PADDED = "torch.nn.functional.pad(….reshape(-1, 1), (1, 0))"
"""Two logits for a single one."""

ARGMAX = ".argmax(dim=1)"
"""The class that a row marks, or its most likely one."""

SOFT = (
    "These are soft labels (MixUp, CutMix, or a distribution over the classes), but influence is that of samples with "
    "one class each. If the training loader mixes samples, read them unmixed: "
    "train_dataloader=DataLoader(dataset, batch_size=…) without that collate function. If the labels themselves are "
    "distributions, take the most likely class. "
)

UNSUPPORTED = (
    ", which is not supported: every sample must have one class. If your samples have one, describe both: "
    "ClassificationTask(logits=…, targets=…)"
)


def describe(value: Any) -> str:
    """Type, shape or keys of a value."""
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"{type(value).__name__} with keys {list(value)}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of length {len(value)}"
    return type(value).__name__


def recipe(batch: Any, *, rejected: bool = False, one_logit: bool = False) -> str:
    """Code that describes a batch, with the user's own keys.

    Args:
        batch: the batch.
        rejected: whether the module's forward cannot take the batch as the defaults pass it.
        one_logit: whether the module has a single logit. Labels that are 0.0 and 1.0 say so, too.
    """
    path, inputs = _labels(batch), _inputs(batch)
    labels = dict(_tensors(batch)).get(path)
    one_logit = one_logit or (labels is not None and labels.is_floating_point() and _is_binary(labels))
    targets = path + (".reshape(-1).long()" if one_logit else _conversion(labels))
    if targets.endswith(ARGMAX):  # the labels of the other loader may be integers
        targets += f" if {path}.ndim > 1 else {path}"
    output = f"module({inputs})"
    if readable := not rejected and _has_defaults(batch):
        output = "ClassificationTask().logits(module, batch)" if isinstance(batch, Mapping) else "module(batch[0])"
    logits = PADDED.replace("…", output) if one_logit else output
    lines = [f"logits=lambda module, batch: {logits},", f"targets=lambda batch: {targets},"]
    width = max(map(len, lines))
    lines = [f"        {line:{width}}  # {kind}" for line, kind in zip(lines, ("(B, C)", "(B,) integers"), strict=True)]
    imports = ["import torch"] * one_logit + ["from lightning_pareto import ClassificationTask"]
    return "\n".join(
        [
            "Describe the batch with a ClassificationTask:\n",
            *(f"    {line}" for line in imports),
            "\n    task = ClassificationTask(",
            *lines[readable and not one_logit :],
            "    )\n",
            'and pass task=task. (Use named functions instead of lambdas with strategy="ddp_spawn".)',
        ]
    )


def advice_on_batch(batch: Any) -> str:
    """What to do with a batch in which the defaults do not find inputs and labels."""
    numbers = [path for path, each in list(_tensors(batch))[1:] if _task_of(each, ()) == "regression"]
    doubt = f"If {numbers[0]} is the target, this is regression, which is not supported. Otherwise: " if numbers else ""
    return doubt + recipe(batch)


def advice_on_one_logit(batch: Any, targets: Tensor, own: bool) -> str:
    """What to do with a single logit for each sample.

    Args:
        batch: the batch.
        targets: its labels, (B,).
        own: whether a function of the user's has read the logits or the labels.
    """
    if not _is_binary(targets):
        return f"This looks like regression{UNSUPPORTED}"
    if own:
        return "A binary classifier with a single logit z has the logits (0, z): logits=lambda module, batch: " + PADDED
    return f"A binary classifier with a single logit z has the logits (0, z). {recipe(batch, one_logit=True)}"


def advice_on_rejection(batch: Any) -> str:
    """What to do if the module's forward cannot take the inputs."""
    if _has_views(batch):
        return (
            f"This looks like self-supervised learning (several views of a sample){UNSUPPORTED}. Or analyse a "
            "classifier that is trained on top"
        )
    return recipe(batch, rejected=True)


def advice_on_labels(found: Any, batch: Any, own: bool) -> str:
    """What to do with labels that are not integers (B,). It goes by their values, not only by their shape.

    Args:
        found: what was read as labels.
        batch: the batch that it was read from.
        own: whether a function of the user's has read it.
    """
    if not isinstance(found, Tensor) or not _is_plain(found):
        return "Return a tensor with one integer for each sample with ClassificationTask(targets=lambda batch: …)"
    task, change = _task_of(found, batch), _conversion(found)
    if task is not None:
        return f"This looks like {task}{UNSUPPORTED}"
    soft = SOFT if change == ARGMAX and not _is_mask(found) else ""
    if own:
        return f"{soft}Append {change} to what targets=… returns"
    if change == ARGMAX:
        return f"{soft or 'If each row marks one class: '}{recipe(batch)}"
    if found.is_floating_point():
        binary = "If the model has a single logit z, its logits are (0, z)."
        other = "Regression is not supported. If these are classes:"
        return f"{binary if _is_binary(found) else other} {recipe(batch)}"
    return recipe(batch)


def _has_defaults(batch: Any) -> bool:
    """Whether the defaults find inputs and labels."""
    return "labels" in batch if isinstance(batch, Mapping) else isinstance(batch, (tuple, list)) and len(batch) == 2


def _is_binary(labels: Tensor) -> bool:
    return _is_flat(labels) and _is_mask(labels)


def _is_flat(labels: Tensor) -> bool:
    """Whether there is one label for each sample."""
    return labels.ndim == 1 or labels.shape[1:] == (1,)


def _is_plain(value: Tensor) -> bool:
    """Whether a tensor has rows and can be compared, unlike complex, sparse, nested and 8-bit floating tensors."""
    small = value.is_floating_point() and value.element_size() < 2
    return bool(value.layout == torch.strided and not value.is_nested and not value.is_complex() and not small) and (
        value.ndim > 0 and len(value) > 0
    )


def _is_mask(labels: Tensor) -> bool:
    """Whether every value is zero or one."""
    return bool(((labels == 0) | (labels == 1)).all())


def _has_views(batch: Any) -> bool:
    """Whether the inputs are several tensors of one shape, as the views of self-supervised learning are."""
    inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else None
    shapes = [getattr(each, "shape", None) for each in inputs] if isinstance(inputs, (tuple, list)) else []
    return len(shapes) > 1 and shapes[0] is not None and len(set(shapes)) == 1


def _conversion(labels: Tensor | None) -> str:
    """Code that makes integers (B,) of labels, appended to them."""
    if labels is None or not labels.ndim:
        return ""
    if not _is_flat(labels):
        return ARGMAX
    return ".squeeze(1)" * (labels.ndim - 1) + ".long()" * labels.is_floating_point()


def _task_of(labels: Tensor, batch: Any) -> str | None:
    """The task that labels belong to if it is not single-label classification; None if it may be."""
    whole = not labels.is_floating_point() or bool((labels == labels.round()).all())
    if _is_flat(labels):
        return None if whole else "regression"
    if labels.ndim == 2 and bool(((labels >= 0) & (labels <= 1)).all()):
        sums = labels.double().sum(dim=1)
        one_hot = len(labels) > 1 and torch.allclose(sums, torch.ones_like(sums), atol=1e-4)
        return None if one_hot else "multi-label classification (several labels for one sample)"
    alike = [each for _, each in _tensors(batch) if each.shape == labels.shape and each.dtype == labels.dtype]
    if labels.is_floating_point() and len(alike) > 1 and not _is_mask(labels):
        return "a batch without labels, as in self-supervised learning"
    if labels.ndim > 2:
        return "segmentation (a label for every pixel)" if whole else "regression of every pixel"
    if not whole:
        return "regression of several values"
    return "token tagging or language modelling (a label for every token)"


def _tensors(value: Any, path: str = "batch") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a nested batch, with the expression for it."""
    if isinstance(value, Tensor):
        if _is_plain(value):
            yield path, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _tensors(part, f'{path}["{name}"]' if isinstance(name, str) else f"{path}[{name!r}]")
    elif isinstance(value, (tuple, list)):
        for i, part in enumerate(value):
            yield from _tensors(part, f"{path}[{i}]")


def _labels(batch: Any) -> str:
    """Expression for the entry that looks most like labels."""
    found = dict(_tensors(batch))

    def likely(path: str) -> tuple[bool, bool, bool]:
        name, labels = path.rpartition("[")[2].strip('"]').lower(), found[path]
        flat = _is_flat(labels) and name not in NO_LABELS
        whole = not labels.is_floating_point() or bool((labels == labels.round()).all())
        index = len(labels) > 2 and len(labels.unique()) == len(labels) if flat else False
        return name in LABELS, flat, whole and not index

    later = list(found)[1:]  # inputs come first
    default = 'batch["label"]' if isinstance(batch, Mapping) else "batch[1]"
    return max(later, key=likely, default=default)


def _inputs(batch: Any) -> str:
    """Expression for the entry that looks most like inputs."""
    labels = _labels(batch)
    found = {path: each for path, each in _tensors(batch) if path != labels}
    return max(found, key=lambda path: found[path].ndim > 1, default="batch[0]")
