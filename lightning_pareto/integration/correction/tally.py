"""Which validation samples a model gets right, and whether that changed between two epochs beyond chance."""

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor, nn

from lightning_pareto.influence.categories import Categories
from lightning_pareto.influence.sharding import Shard
from lightning_pareto.influence.task import ClassificationTask
from lightning_pareto.integration.validation.logits import Listener

Float = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Tally:
    """The predictions of one validation epoch, over all processes and the same on each.

    Attributes:
        category: category of every sample in the order it was read, (M,).
        right: whether it was predicted right, (M,) bool.
    """

    category: Tensor
    right: Tensor

    def hits(self, count: int) -> Float:
        """Right predictions of every category, (K,)."""
        return self._counted(self.right, count)

    def support(self, count: int) -> Float:
        """Samples of every category, (K,)."""
        return self._counted(torch.ones_like(self.right), count)

    def of(self, chosen: Tensor, count: int) -> Float:
        """How many of the ``chosen`` samples, (M,) bool, each category has, (K,)."""
        return self._counted(chosen, count)

    def accuracy(self, count: int) -> Float:
        """Accuracy of every category, NaN where it has no samples, (K,)."""
        hits, support = self.hits(count), self.support(count)
        accuracy: Float = np.divide(hits, support, out=np.full(count, np.nan), where=support > 0)
        return accuracy

    def _counted(self, chosen: Tensor, count: int) -> Float:
        return torch.bincount(self.category[chosen], minlength=count).numpy().astype(np.float64)


@dataclass(frozen=True, eq=False)
class Change:
    """What happened to every category from one validation epoch to another.

    Attributes:
        before: accuracies before, NaN for a category without samples, (K,).
        after: accuracies after, (K,).
        p_values: one-sided p-value of each category's fall, (K,); 1 where there are no samples.
        paired: whether the samples were the same in the same order.
    """

    before: Float
    after: Float
    p_values: Float
    paired: bool

    def fallen(self, threshold: float, level: float) -> npt.NDArray[np.bool_]:
        """Categories that fell by more than ``threshold`` and beyond chance, (K,).

        The p-values are multiplied by the number of categories that have samples (Bonferroni), so that with nothing
        but chance at work some category is named in at most a share ``level`` of the epochs.
        """
        tested = np.isfinite(self.before) & np.isfinite(self.after)
        drop = np.where(tested, np.nan_to_num(self.before) - np.nan_to_num(self.after), 0.0)
        found: npt.NDArray[np.bool_] = tested & (drop > threshold) & (self.p_values * tested.sum() <= level)
        return found


def change(before: Tally, after: Tally, count: int) -> Change:
    """Compare two validation epochs over ``count`` categories.

    Read in the same order (the same categories one after the other), the samples are paired: of those that changed, as
    many are lost as gained but for chance, an exact sign test (McNemar). Otherwise, as with a shuffled validation
    loader, the counts are compared by Fisher's exact test, which has less power.
    """
    paired = torch.equal(before.category, after.category)
    hits, support = after.hits(count), after.support(count)
    if paired:
        lost = after.of(before.right & ~after.right, count)
        gained = after.of(~before.right & after.right, count)
        p_values = stats.binom.sf(lost - 1, lost + gained, 0.5)
    else:
        total, all_hits = support + before.support(count), hits + before.hits(count)
        p_values = stats.hypergeom.cdf(hits, total, all_hits, support)
    return Change(before.accuracy(count), after.accuracy(count), np.where(support > 0, p_values, 1.0), paired)


class Tallying:
    """Collects this process's part of a validation epoch.

    Args:
        task: how to read a batch.
        categories: function of a batch returning (B,) integers; the labels by default.
        limit: number of samples to count, as those that follow are repeats; None for all.
    """

    def __init__(self, task: ClassificationTask, categories: Categories | None, limit: int | None) -> None:
        self._listener = Listener(task)
        self._categories = categories
        self._limit = limit
        self._found: list[Tensor] = []

    def listen(self, module: nn.Module, batch: Any) -> None:
        """Begin a batch."""
        self._listener.listen(module, batch)

    def update(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """End a batch: note which of its samples are right."""
        batch, logits, targets = self._listener.heard(trainer, module)
        category = targets if self._categories is None else self._categories(batch).long()
        self._found.append((2 * category + (logits.argmax(dim=1) == targets)).cpu())

    def stop(self) -> None:
        """Stop listening."""
        self._listener.stop()

    def whole(self, shard: Shard) -> Tally:
        """The epoch over all processes, one after the other; every process has to call it."""
        mine = torch.cat([torch.empty(0, dtype=torch.int64), *self._found])[: self._limit]
        sizes = torch.zeros(shard.count, dtype=torch.int64)
        sizes[shard.index] = len(mine)
        sizes = shard.sum(sizes)
        codes = torch.zeros(int(sizes.sum()), dtype=torch.int64)
        start = int(sizes[: shard.index].sum())
        codes[start : start + len(mine)] = mine
        return decoded(shard.sum(codes))


def encoded(tally: Tally) -> Tensor:
    """A tally as one tensor, for a checkpoint, (M,)."""
    return (2 * tally.category + tally.right).to(torch.int32)


def decoded(codes: Tensor) -> Tally:
    """The tally of :func:`encoded`."""
    return Tally(codes.long() // 2, codes.long() % 2 == 1)
