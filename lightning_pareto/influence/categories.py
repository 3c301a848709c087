"""Categories of the validation set, and their split into folds for cross-fitting."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_pareto.influence.measures import Measure, logit_gradient
from lightning_pareto.influence.passes import GradientPass

Categories = Callable[[Any], Any]
"""Function of a validation batch returning each sample's category, integers in [0, K), (B,)."""


@dataclass(frozen=True)
class Cells:
    """Every validation sample in one cell: its fold and its category.

    Attributes:
        cell: fold · K + category of every validation sample, (M,).
        support: number of samples in every cell, (F, K).
        names: the K names.
    """

    cell: Tensor
    support: Tensor
    names: tuple[str, ...]


def scan(
    validation: GradientPass,
    measure: Measure,
    categories: Categories | None,
    class_names: Sequence[str] | None,
    folds: int,
    seed: int,
) -> Cells:
    """Read the category of every validation sample and deal each category's samples out to the folds.

    One forward pass, which also finds unreadable batches, labels out of range and non-finite losses before the long
    passes begin.

    Args:
        validation: the validation pass.
        measure: the per-sample measure, checked to be finite.
        categories: function of a batch; the labels by default.
        class_names: K names; by default as many as there are logits (labels) or categories seen, numbered.
        folds: number of folds F. Each category is spread over them as evenly as its size allows.
        seed: of the deal.

    Raises:
        ValueError: if a category is out of range.
    """
    found, classes = validation.completed("validation scan", lambda: _categories(validation, measure, categories))
    found = validation.shard.sum(found)
    seen = int(found.max()) + 1
    count = len(class_names) if class_names is not None else max(seen, classes if categories is None else 0)
    names = tuple(map(str, class_names)) if class_names is not None else tuple(map(str, range(count)))
    if int(found.min()) < 0 or int(found.max()) >= count:
        raise ValueError(
            f"validation categories must lie in [0, {count}), found {int(found.min())} to {int(found.max())}: "
            "give one class name for each category"
        )
    cell = deal_folds(found, folds, seed) * count + found
    support = torch.bincount(cell, minlength=folds * count).reshape(folds, count)
    absent = [name for name, samples in zip(names, support.sum(dim=0).tolist(), strict=True) if samples == 0]
    if absent:
        warnings.warn(
            f"no validation samples of {', '.join(absent)}: nothing can be said about them, and the verdict and the "
            "weights leave them out. Add validation samples of these categories",
            stacklevel=2,
        )
    return Cells(cell, support, names)


def _categories(validation: GradientPass, measure: Measure, categories: Categories | None) -> tuple[Tensor, int]:
    """Category of every validation sample of this process, zero elsewhere, (M,), and the number of logits."""
    found = torch.zeros(validation.size, dtype=torch.int64)
    classes = 0
    for indices, batch, forward in validation("validation scan"):
        logit_gradient(measure, forward.logits, forward.targets)
        if classes == 0 and _are_probabilities(forward.logits):
            warnings.warn(
                "the model's outputs are rows in [0, 1] that sum to one: they look like probabilities, where "
                "logits are expected. Return them before the softmax, or their logarithms",
                stacklevel=2,
            )
        read = forward.targets if categories is None else _read(categories(batch), forward.targets)
        found[indices] = read.cpu()
        classes = forward.logits.shape[1]
    return found, classes


def _are_probabilities(logits: Tensor) -> bool:
    logits = logits.detach().float()
    sums = logits.sum(dim=1)
    return bool((logits >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3))


def _read(categories: Any, targets: Tensor) -> Tensor:
    if not isinstance(categories, Tensor) or categories.shape != targets.shape or categories.is_floating_point():
        raise ValueError(
            f"categories(batch) must return an integer tensor of shape {tuple(targets.shape)}, found {categories!r:.80}"
        )
    return categories


def deal_folds(categories: Tensor, folds: int, seed: int) -> Tensor:
    """Fold of every validation sample: within each category a random order, dealt out one by one, (M,).

    Args:
        categories: of all samples in index order, (M,).
        folds: how many.
        seed: that of the influence.
    """
    generator = torch.Generator().manual_seed(seed)
    fold = torch.zeros_like(categories)
    for category in categories.unique():
        members = (categories == category).nonzero().squeeze(1)
        start = int(torch.randint(folds, (1,), generator=generator))
        order = torch.randperm(len(members), generator=generator)
        fold[members] = (order + start) % folds
    return fold
