"""How an influence estimate runs and how it reads batches, as opposed to what it computes."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from lightning_pareto.arguments import checked_number
from lightning_pareto.influence.categories import Categories
from lightning_pareto.influence.passes import Progress, silent
from lightning_pareto.influence.sharding import Shard
from lightning_pareto.influence.task import ClassificationTask


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How batches become samples with categories.

    Attributes:
        task: reads logits and labels.
        categories: function of a validation batch returning (B,) integers; None for the labels.
        category_names: names of the K categories; None for numbers.
    """

    task: ClassificationTask = field(default_factory=ClassificationTask)
    categories: Categories | None = None
    category_names: Sequence[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How the passes over the data run. Nothing here changes the numbers beyond rounding.

    Attributes:
        shard: this process's part of the work.
        transfer: moves a batch to the device; None moves every tensor.
        val_transfer: the same for validation batches; None for ``transfer``.
        context: entered around every forward pass, for instance autocast.
        progress: called with (stage, batches done, batches in total).
        max_memory: bound in GiB on directions and intermediate results; None for no bound.
        stages_dir: folder where finished stages are kept until all are done; None keeps nothing.

    Raises:
        ValueError: if ``max_memory`` is not above zero.
    """

    shard: Shard = field(default_factory=Shard)
    transfer: Callable[[Any], Any] | None = None
    val_transfer: Callable[[Any], Any] | None = None
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    progress: Progress = silent
    max_memory: float | None = None
    stages_dir: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        what = "max_memory is a bound in GiB, > 0"
        if self.max_memory is not None and not checked_number(self.max_memory, what) > 0:
            raise ValueError(f"{what}, found {self.max_memory}")
