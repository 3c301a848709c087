"""Options for how an influence estimate runs and reads batches. The options for what it computes are elsewhere."""

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
    """How to read samples and their categories from batches, see :func:`estimate_influence`."""

    task: ClassificationTask = field(default_factory=ClassificationTask)
    categories: Categories | None = None
    category_names: Sequence[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How the passes over the data run, see :func:`estimate_influence`. It affects the numbers only by rounding.

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
        expected = "max_memory must be > 0 (a limit in GiB)"
        if self.max_memory is not None and not checked_number(self.max_memory, expected) > 0:
            raise ValueError(f"{expected}, found {self.max_memory}")
