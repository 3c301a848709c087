"""One pass over a dataset in index order, yielding per-sample gradients."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_pareto.influence.gradients import Forward, GradientProbe
from lightning_pareto.influence.sharding import Shard
from lightning_pareto.loaders import with_sampler

Progress = Callable[[str, int, int], None]
"""Called with (stage, batches done, batches in all) before the first and after every batch."""


def silent(_stage: str, _done: int, _total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class GradientPass:
    """Goes over this process's part of a dataset in index order, whatever the user's loader shuffles or drops.

    Attributes:
        loader: the user's loader; its dataset, collate function, batch size and workers are used.
        probe: runs the model; must be open.
        shard: this process's part.
        device: where batches go, unless ``transfer`` is given.
        transfer: moves a batch to the device, with the user's own hooks.
        progress: told of every batch.
    """

    loader: "DataLoader[Any]"
    probe: GradientProbe
    shard: Shard
    device: torch.device
    transfer: Callable[[Any], Any] | None = None
    progress: Progress = silent

    @property
    def size(self) -> int:
        """Number of samples of the whole dataset, all processes together."""
        return len(self.loader.dataset)  # type: ignore[arg-type]

    def __call__(self, stage: str) -> Iterator[tuple[Tensor, Any, Forward]]:
        """Yield (dataset indices (B,), batch, forward pass) for every batch.

        Raises:
            ValueError: if a batch does not hold as many samples as indices were asked for.
        """
        indices = self.shard.range(self.size)
        loader = with_sampler(self.loader, indices, drop_last=False, generator=torch.Generator())  # type: ignore[arg-type]
        transfer = self.transfer or functools.partial(move, device=self.device)
        start = indices.start
        total = len(loader)
        self.progress(stage, 0, total)
        for done, batch in enumerate(loader, start=1):
            batch = transfer(batch)
            forward = self.probe.forward(batch)
            count = len(forward.targets)
            expected = min(loader.batch_size or count, indices.stop - start)
            if count != expected:
                raise ValueError(
                    f"the collate function returned {count} labels for {expected} samples: influence needs one label "
                    "per dataset index, so it must neither drop nor repeat samples"
                )
            yield torch.arange(start, start + count), batch, forward
            start += count
            self.progress(stage, done, total)


def move(batch: Any, device: torch.device) -> Any:
    """Move every tensor of a nested batch to ``device``."""
    if isinstance(batch, Tensor) or hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: move(value, device) for name, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(move(value, device) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(move(value, device) for value in batch)
    return batch
