"""Categories of the validation samples, and their split into folds for cross-fitting."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_pareto.arguments import checked_names
from lightning_pareto.display.terminal import listed
from lightning_pareto.display.warning import warn
from lightning_pareto.influence.measures import Measure, logit_gradient
from lightning_pareto.influence.passes import GradientPass

Categories = Callable[[Any], Any]
"""Function of a validation batch returning each sample's category, integers in [0, K), (B,)."""


@dataclass(frozen=True)
class Cells:
    """The validation samples divided into cells, one for each fold and category.

    Attributes:
        cell: fold · K + category of every validation sample, (M,).
        support: number of samples in every cell, (F, K).
        names: names of the K categories.
    """

    cell: Tensor
    support: Tensor
    names: tuple[str, ...]


def _ignore(_indices: Tensor, _batch: Any, _logits: Tensor) -> None:
    """Watch nothing."""


def scan(
    validation: GradientPass,
    measure: Measure,
    *,
    categories: Categories | None = None,
    category_names: Sequence[str] | None = None,
    folds: int,
    seed: int,
    watch: Callable[[Tensor, Any, Tensor], None] = _ignore,
) -> Cells:
    """Read the category of every validation sample, and deal each category's samples out to the folds.

    This takes one forward pass. It also finds unreadable batches, labels and categories out of range, and non-finite
    losses, before the long passes begin. Without names the categories are numbered. K is then the number of logits, or
    of categories found. ``watch`` is called with the indices, the batch and the logits of every batch.
    """
    given = None if category_names is None else checked_names(category_names, "category_names")
    found, classes = validation.run("validation scan", lambda: _categories(validation, measure, categories, watch))
    found = validation.shard.sum(found)
    if categories is None:
        names = tuple(map(str, range(classes))) if given is None else given
        if len(names) != classes:
            raise ValueError(f"found {len(names)} class names for a model with {classes} logits: pass one for each")
    else:
        names = names_of_categories(found, given, most=len(found))
    count = len(names)
    if folds > len(found):
        warn(
            f"{folds} folds for {len(found)} validation samples: {folds - len(found)} of them stay empty. Lower folds, "
            "or add validation samples; a proof takes dozens"
        )
    cell = deal_folds(found, folds, seed) * count + found
    support = torch.bincount(cell, minlength=folds * count).reshape(folds, count)
    otherwise = "the verdict and the weights leave these categories out"
    warn_about_absent(names, support.sum(dim=0).tolist(), kind="validation", otherwise=otherwise)
    return Cells(cell, support, names)


def warn_about_absent(names: Sequence[str], samples: Sequence[int], *, kind: str, otherwise: str) -> None:
    """Warn about names without samples."""
    absent = [name for name, count in zip(names, samples, strict=True) if count == 0]
    if absent:
        warn(f"no {kind} samples of {listed(absent)}: add some, or {otherwise}")


def names_of_categories(found: Tensor, given: Sequence[str] | None, most: int) -> tuple[str, ...]:
    """Names of the categories: those given, else numbers from 0 to the largest one found.

    Args:
        found: category of each sample, (M,), M > 0.
        given: the user's names, if there are any.
        most: largest number of categories without names. A larger number means that there are gaps.

    Raises:
        ValueError: for a category out of range, too many numbers, or names that are not different.
    """
    low, high = int(found.min()), int(found.max())
    count = high + 1 if given is None else len(given)
    if low < 0 or high >= count:
        raise ValueError(
            f"validation categories must be in [0, {count}), found {low} to {high}: pass one class name for each "
            "category"
        )
    if given is None and count > most:
        raise ValueError(
            f"found {count} categories for {len(found)} validation samples: number the categories from 0 without gaps, "
            "for instance by their position in a sorted list"
        )
    return tuple(map(str, range(count))) if given is None else checked_names(given, "category_names")


def _categories(
    validation: GradientPass,
    measure: Measure,
    categories: Categories | None,
    watch: Callable[[Tensor, Any, Tensor], None],
) -> tuple[Tensor, int]:
    """This process's categories, (M,) with zeros for other processes' samples, and the number of logits."""
    found = torch.zeros(validation.size, dtype=torch.int64)
    classes = 0
    for indices, batch, forward in replace(validation, differentiable=False)("validation scan"):
        with validation.locating_errors(indices):
            logit_gradient(measure, forward.logits, forward.targets)
        if classes == 0 and _are_probabilities(forward.logits):
            warn(
                "expected logits, but the model's outputs look like probabilities: each row is in [0, 1] and sums to "
                "one. Return the logits before the softmax, or the logarithms of the probabilities"
            )
        read = forward.targets if categories is None else read_categories(categories, batch, forward.targets)
        found[indices] = read.cpu()
        classes = forward.logits.shape[1]
        watch(indices, batch, forward.logits)
    return found, classes


def _are_probabilities(logits: Tensor) -> bool:
    logits = logits.detach().float()
    sums = logits.sum(dim=1)
    return bool((logits >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3))


def read_categories(categories: Categories, batch: Any, targets: Tensor) -> Tensor:
    """Categories of a batch's samples, (B,) int64. Raises a ValueError if they are not one integer per sample."""
    found = categories(batch)
    if not isinstance(found, Tensor) or found.is_floating_point() or found.is_complex() or found.shape != targets.shape:
        raise ValueError(
            f"categories(batch) must return an integer tensor of shape {tuple(targets.shape)}, found {found!r:.80}"
        )
    return found.long()


def deal_folds(categories: Tensor, folds: int, seed: int) -> Tensor:
    """Fold of every validation sample, (M,). Each category is shuffled and dealt out to the folds one by one."""
    generator = torch.Generator().manual_seed(seed)
    fold = torch.zeros_like(categories)
    for category in categories.unique():
        members = (categories == category).nonzero().squeeze(1)
        start = int(torch.randint(folds, (1,), generator=generator))
        order = torch.randperm(len(members), generator=generator)
        fold[members] = (order + start) % folds
    return fold
