"""Passes over a dataset in index order, yielding the per-sample gradients of each batch."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_pareto.data.loaders import read_batches, size_of_batches, with_sampler
from lightning_pareto.influence.gradients import Forward, GradientProbe, MixedSamplesError
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.memory import is_out_of_memory
from lightning_pareto.influence.sharding import OtherProcessMemoryError, Shard
from lightning_pareto.influence.task import BatchError

T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""Called with (stage, batches done, batches in total) before the first batch and after every batch."""

_MAX_DIMENSIONS = 4
"""Maximum number of dimensions of the tensors in :meth:`GradientPass.all_reduce`."""

LOOPED_BATCH = 4
"""Batch size while a layer is looped over. Each of its backward passes goes through the whole batch."""


class PlanChangedError(RuntimeError):
    """The plan for a layer was wrong and has changed, so all results so far must be computed again."""


def silent(_stage: str, _done: int, _total: int) -> None:
    """Report no progress."""


@dataclass(frozen=True, kw_only=True)
class GradientPass:
    """Goes over this process's part of a dataset in index order, even if the user's loader shuffles or drops samples.

    Attributes:
        loader: the user's loader; its dataset, collate function, batch size and workers are used.
        probe: runs the model; must be open.
        device: target of batches, unless ``transfer`` is given.
        transfer: moves a batch to the device, with the user's own hooks.
        progress: called before the first batch and after every batch.
        chosen: dataset indices to go over; all by default.
        name: name of the dataset in errors.
        known: labels of the samples that were read before, (N,), −1 for the others. Later reads must agree.
        one_by_one: read batches of one sample, whose order no collate function can change.
        differentiable: whether the batches are run for gradients, or for the logits only, which is faster.
    """

    loader: "DataLoader[Any]"
    probe: GradientProbe
    shard: Shard
    device: torch.device
    transfer: Callable[[Any], Any] | None = None
    progress: Progress = silent
    chosen: Sequence[int] | None = None
    name: str = "training"
    known: npt.NDArray[np.int64] | None = None
    one_by_one: bool = False
    differentiable: bool = True

    @property
    def indices(self) -> Sequence[int]:
        """Dataset indices of all processes together."""
        return range(len(self.loader.dataset)) if self.chosen is None else self.chosen  # type: ignore[arg-type]

    @property
    def size(self) -> int:
        """Number of samples of this pass, over all processes."""
        return len(self.indices)

    def sample(self, count: int | None, seed: int) -> "GradientPass":
        """A pass over ``count`` random samples (None for all) in random order, the same on every process."""
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(seed))[:count]
        return replace(self, chosen=[self.indices[i] for i in order.tolist()])

    def part(self, start: int, stop: int) -> "GradientPass":
        """A pass over the samples at positions ``start`` to ``stop`` of this one."""
        return replace(self, chosen=self.indices[start:stop])

    def run(self, stage: str, work: Callable[[], T]) -> T:
        """Do the work of a stage on all processes. Retries with half the batch when one of them runs out of memory.

        The work must have no side effects when it fails.

        Raises:
            OtherProcessError: if another process failed.
            PlanChangedError: on all processes, if one met a layer that does not keep the samples apart. The plan then
                loops over that layer.
        """
        while True:
            mixed = None
            try:
                with self.shard.agreement(stage):
                    try:
                        result = work()
                    except MixedSamplesError as error:
                        mixed = error
                self._replan(mixed)
                return result
            except Exception as error:
                memory = isinstance(error, OtherProcessMemoryError) or is_out_of_memory(error)
                if not memory or not self.probe.memory.halve(self.batch_size):
                    raise
            # the failed attempt's tensors are free only here, outside of the handler

    def _replan(self, mixed: MixedSamplesError | None) -> None:
        """Loop, on every process, over the layers whose samples were mixed on any process."""
        layers = list(self.probe.plan.factored)
        flags = torch.tensor([int(mixed is not None and layer is mixed.layer) for layer in layers], dtype=torch.int64)
        found = [layer for layer, flag in zip(layers, self.shard.sum(flags).tolist(), strict=True) if flag]
        for layer in found:
            self.probe.plan.loop(layer)
        if found:
            names = ", ".join(layer.name for layer in found)
            raise PlanChangedError(f"the inputs of {names} do not keep the samples apart") from mixed

    @property
    def batch_size(self) -> int:
        """Number of samples that are read together, as far as is known to fit into memory."""
        if self.one_by_one:
            return 1
        looped = LOOPED_BATCH if self.differentiable and any(self.probe.plan.looped.values()) else math.inf
        return int(min(size_of_batches(self.loader), self.probe.memory.batch or math.inf, looped))

    def batch_of(self, indices: Sequence[int]) -> Any:
        """These samples as one batch."""
        return next(self.batches_of([indices]))

    def batches_of(self, batches: Sequence[Sequence[int]]) -> Iterator[Any]:
        """These batches of samples, in their order."""
        for indices, batch in zip(batches, map(self.moved, read_batches(self.loader, batches)), strict=True):
            _check_count(len(self.probe.task.read_targets(batch)), len(indices))
            yield batch

    def moved(self, batch: Any) -> Any:
        """The batch on the device."""
        return move(batch, self.device) if self.transfer is None else self.transfer(batch)

    @contextlib.contextmanager
    def locating_errors(self, indices: Sequence[int] | Tensor) -> Iterator[None]:
        """Prefix errors about one row of a batch with the sample's dataset index, from ``indices``, (B,)."""
        try:
            yield
        except BatchError as error:
            if error.row is None:
                raise
            raise BatchError(f"{self.name} sample {int(indices[error.row])}: {error}") from error

    def forward_of(self, indices: Sequence[int]) -> Forward:
        """Run the model on these samples as one batch."""
        batch = self.batch_of(indices)
        with self.locating_errors(indices):
            return self.probe.forward(batch)

    def check_labels(self, indices: Sequence[int], targets: Tensor) -> None:
        """Compare labels with those of earlier reads of the same samples, and remember them.

        Raises:
            ValueError: if a sample has another label than before.
        """
        if self.known is None:
            return
        before, now = self.known[list(indices)], targets.cpu().numpy()
        changed = np.flatnonzero((before >= 0) & (before != now))
        if len(changed):
            row = changed[0]
            raise ValueError(
                f"{self.name} sample {indices[row]} has the label {before[row]} in one read and {now[row]} in another. "
                "Influence belongs to dataset indices, so neither labels nor the order of the samples may be random"
            )
        self.known[list(indices)] = now

    def all_reduce(self, sums: dict[Layer, Tensor]) -> dict[Layer, Tensor]:
        """Sum each layer's tensor over the processes. A process that did not reach a layer counts as zero."""
        totals = {}
        for layer in self.probe.layers:
            mine = sums.get(layer)
            shape = [] if mine is None else [1, *mine.shape]
            shape += [0] * (1 + _MAX_DIMENSIONS - len(shape))
            reached, *shape = self.shard.sum(torch.tensor(shape, dtype=torch.int64)).tolist()
            if reached:
                if mine is None:
                    like = layer.parameters[0]
                    dtype = torch.promote_types(like.dtype, torch.float32)
                    mine = like.new_zeros([n // reached for n in shape if n], dtype=dtype)
                totals[layer] = self.shard.sum(mine)
        return totals

    def __call__(self, stage: str) -> Iterator[tuple[Tensor, Any, Forward]]:
        """Yield (dataset indices (B,), batch, forward pass) for every batch."""
        mine = self.shard.range(self.size)
        indices = self.indices[mine.start : mine.stop]
        loader = with_sampler(
            self.loader,
            indices,  # type: ignore[arg-type]  # any iterable of indices serves as a sampler
            drop_last=False,
            generator=torch.Generator(),
            batch_size=self.batch_size,
        )
        start = 0
        total = len(loader)
        self.progress(stage, 0, total)
        for done, batch in enumerate(loader, start=1):
            batch = self.moved(batch)
            with self.locating_errors(indices[start:]):
                forward = self.probe.forward(batch, self.differentiable)
            count = len(forward.targets)
            _check_count(count, min(loader.batch_size or count, len(indices) - start))
            self.check_labels(indices[start : start + count], forward.targets)
            yield torch.tensor(indices[start : start + count]), batch, forward
            forward.release()  # otherwise its graph lives until the next one is built
            start += count
            self.progress(stage, done, total)


def _check_count(found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(
            f"the collate function returned {found} labels for {expected} samples. Influence needs one label per "
            "dataset index, so it must neither drop nor repeat samples"
        )


@runtime_checkable
class _Movable(Protocol):
    """A tensor, or any other object with ``.to(device)``."""

    def to(self, device: torch.device) -> Any: ...


def move(batch: Any, device: torch.device) -> Any:
    """Move every tensor of a nested batch to ``device``."""
    return apply_to_collection(batch, _Movable, lambda value: value.to(device))
