"""Compares the loss of ``training_step`` with the one of which influence is computed."""

import contextlib
import copy
import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, Dataset
from torch.utils.hooks import RemovableHandle

from lightning_pareto.data.loaders import read_batches, size_of_batches
from lightning_pareto.influence.gradients import unchanged_state
from lightning_pareto.influence.measures import logit_gradient
from lightning_pareto.influence.task import ClassificationTask
from lightning_pareto.integration.trainer.batches import transfer_of
from lightning_pareto.integration.trainer.data_source import DataSource
from lightning_pareto.integration.trainer.internals import is_compiled
from lightning_pareto.integration.trainer.processes import rank_zero_warn
from lightning_pareto.reweighting.weighted_dataset import weights_in_batch

TOLERANCE, GRADIENT_TOLERANCE = 0.01, 0.02
"""Relative difference of the losses of a batch, or their gradients, that counts as rounding, as in half precision."""

LOGIT_TOLERANCE, LOSS_TOLERANCE = 0.05, 0.05
"""Relative difference of the logits, and share of the loss beside the expected one, that are not reported."""

LAST = 3
"""How many comparisons count at the end, one an epoch. At the start, different losses may have similar values."""


class LossComparison:
    """Compares both losses on the first batch of every epoch, by their gradients with respect to the logits.

    These must be proportional, with one factor for all samples, or with the weights of a :class:`WeightedDataset`.
    Class weights and soft labels change them even where they leave the loss as it is. The graph of the step itself
    is used, so the network takes no further backward pass. The logits must be those of the step, and the loss must be
    what the factor tells, so nothing else is added to it.

    If the logits are not in this graph, the values are compared. The task's loss is computed in training mode, as
    ``training_step`` is about to, on a copy of the batch. Buffers, counters and random states are restored, so the fit
    is the same to the bit, and dropout draws what it will draw in the step. A batch that the task cannot read is left
    out.

    Args:
        task: whose loss influence is computed of.
    """

    def __init__(self, task: ClassificationTask) -> None:
        self._task = task
        self._handle: RemovableHandle | None = None
        self.begin_fit()

    def begin_fit(self) -> None:
        """Forget the previous fit."""
        self.stop()
        self._comparisons: list[str] = []  # what is different, empty for nothing
        self._warned = self._warned_of_none = self._tried = False

    def stop(self) -> None:
        """Remove the hook and forget the batch."""
        if self._handle is not None:
            self._handle.remove()
        self._handle, self._targets, self._weights = None, torch.empty(0), torch.empty(0)
        self._values: tuple[float, ...] = ()  # of the task's loss: mean and sum
        self._expected = torch.empty(0)  # logits of the task
        self._drawn, self._redrawn, self._drops = list[Tensor](), False, False  # random states after they were computed
        self._outputs: list[Tensor] = []  # logits in the step
        self._differences: list[tuple[float, str]] = []  # one a backward pass: how large, and what is different

    def begin_batch(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> None:
        """Compute the loss of a batch before its step, and listen for the step's logits."""
        self.stop()
        self._tried = True
        outputs: list[tuple[nn.Module, Tensor]] = []
        try:
            with contextlib.suppress(Exception):  # not everything can be copied deeply
                batch = copy.deepcopy(batch)  # forward may change it in place
            self._targets = self._task.read_targets(copy.copy(batch))
            listening = _listening(outputs, module, len(self._targets))
            context = trainer.precision_plugin.forward_context()
            with isolate_rng(), torch.no_grad(), unchanged_state(module), context, listening:
                logits = self._expected = self._task.read_logits(module, copy.copy(batch), self._targets)
                losses = self._task.loss(logits.float(), self._targets)
                self._drawn = _random_states(logits)
            self._drops = any("drop" in type(each).__name__.lower() for each in module.modules())
            found = weights_in_batch(getattr(trainer.train_dataloader, "dataset", None), batch)
            self._weights = torch.ones_like(losses) if found is None else found.to(losses)
            self._values = float((self._weights * losses).mean()), float((self._weights * losses).sum())
            source = next((each for each, output in outputs if output is logits), None)  # the innermost
        except Exception:  # training batches may differ in any way from those that the task reads
            source = None
        if source is not None:
            self._handle = register_module_forward_hook(lambda each, _, output: self._keep(each is source, output))

    def before_backward(self, loss: Tensor) -> None:
        """Compare the gradients of a loss whose backward pass is about to begin."""
        with contextlib.suppress(Exception):  # the loss may be anything
            self._differences += self._difference(loss)

    def end_batch(self, trainer: pl.Trainer, outputs: Any) -> None:
        """Finish the comparison, with the value of the loss that the step returned if there are no gradients."""
        found = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        differences, values = self._differences, self._values
        self.stop()
        if not values:
            return
        if differences:
            _, different = min(differences)
        elif isinstance(found, Tensor) and found.numel() == 1:
            trained = float(found) * trainer.accumulate_grad_batches  # Lightning has divided it
            expected = min(values, key=lambda value: abs(value - trained))
            same = math.isclose(trained, expected, rel_tol=TOLERANCE, abs_tol=1e-3)
            different = "" if same else f"{trained:.4g} instead of {expected:.4g} on a batch"
        else:
            if not trainer.lightning_module.automatic_optimization:  # otherwise None skips a step
                self._warn_of_none("training_step returns no loss and does not call manual_backward")
            return
        self._comparisons.append(different)
        if len(self._comparisons) == 1:
            self.warn()

    def compare_now(self, trainer: pl.Trainer, module: pl.LightningModule, data: DataSource) -> None:
        """Compare on a training batch without a fit, by calling ``training_step`` of a copy with the same parameters.

        The copy logs nothing. A warning says if the losses cannot be compared.
        """
        if not module.automatic_optimization:
            self._warn_of_none("training_step optimises by itself and is not called without a fit")
            return
        try:
            with (
                isolate_rng(),
                torch.enable_grad(),
                _unchanged_parameters(module),
                _silent_twin(trainer, module) as twin,
            ):
                fitted = trainer.train_dataloader
                loader = fitted if isinstance(fitted, DataLoader) else data.train(trainer)
                size, few = len(loader.dataset), size_of_batches(loader)  # type: ignore[arg-type]
                batches = read_batches(loader, [range(0, size, max(1, size // few))[:few]])
                batch = transfer_of(trainer, module)(next(batches))
                self.begin_batch(trainer, twin, batch)
                arguments = (batch, 0)[: len(inspect.signature(twin.training_step).parameters)]
                with trainer.precision_plugin.forward_context():
                    output: Any = twin.training_step(*arguments)
                loss = output["loss"] if isinstance(output, Mapping) else output
                self.before_backward(loss)
                self.end_batch(trainer, loss.detach() / trainer.accumulate_grad_batches)
            reason = "the task cannot read a training batch"
        except Exception as error:  # training_step may need what only a fit offers
            self.stop()
            reason = f"training_step failed without a fit ({error})"
        if not self._comparisons:
            self._warn_of_none(reason)

    def warn(self) -> None:
        """Warn, once a fit, if the losses differ in half of the last comparisons or more, or if there are none."""
        if self._tried and not self._comparisons:
            self._warn_of_none("the task cannot read the training batches in training mode, or no step returned a loss")
        last = self._comparisons[-LAST:]
        different = [each for each in last if each]
        if last and 2 * len(different) >= len(last) and not self._warned:
            self._warned = True
            rank_zero_warn(
                f"training_step has another loss than the one whose influence is computed: {different[-1]}. "
                "Class weights, label smoothing, soft labels (MixUp), weights that the step ignores, "
                "another output than the logits of forward, auxiliary losses, or normalisation and augmentation in the "
                "step (these belong in the dataset or in on_after_batch_transfer)? Describe it with a "
                "ClassificationTask, for instance "
                "ClassificationTask(loss=lambda logits, targets: torch.nn.functional.cross_entropy(logits, targets, "
                'reduction="none", label_smoothing=0.1))'
            )

    def _warn_of_none(self, reason: str) -> None:
        if not self._warned_of_none:
            self._warned_of_none = True
            rank_zero_warn(
                f"{reason}, so its loss was not compared with the one whose influence is computed. If they differ, "
                "describe the trained loss with ClassificationTask(loss=…)"
            )

    def _keep(self, wanted: bool, output: Any) -> None:
        if wanted and isinstance(output, Tensor) and output.requires_grad and output.shape[:1] == self._targets.shape:
            self._outputs.append(output)
            self._redrawn |= not all(map(torch.equal, self._drawn, _random_states(output)))

    def _difference(self, loss: Tensor) -> list[tuple[float, str]]:
        """The largest difference between both losses and what it is, "" for nothing; in a list that may be empty."""
        if not self._outputs or not _allows_two_passes(loss, {output.grad_fn for output in self._outputs}):
            return []
        gradients = torch.autograd.grad(loss, self._outputs, retain_graph=True, allow_unused=True)
        differences, explained = [], 0.0
        for found, output in zip(gradients, self._outputs, strict=True):
            if found is not None and found.any():
                expected = self._weights[:, None] * logit_gradient(self._task.loss, output, self._targets)
                trained, right = (_before_log_softmax(each.float(), output) for each in (found, expected))
                factor = float((trained @ right).clamp(min=0) / (right @ right))
                differences.append(float((trained - factor * right).norm() / trained.norm()))
                losses = self._task.loss(output.detach().float(), self._targets)
                explained += factor * float((self._weights * losses).sum())
        if not differences or not all(map(math.isfinite, differences)):
            return []
        largest = max(differences)
        if largest > GRADIENT_TOLERANCE:
            return [(2 + largest, f"its gradients with respect to the logits differ by {largest:.0%}")]
        nearest = min(float((output.detach() - self._expected).norm()) for output in self._outputs)
        moved = nearest / max(float(self._expected.norm()), 1e-9)
        if moved > LOGIT_TOLERANCE and not (self._redrawn and self._drops):  # else dropout drew other numbers
            return [(1 + moved, f"its logits differ by {moved:.0%}, since the step changes the inputs")]
        value = float(loss.detach())
        rest = abs(value - explained) / max(abs(value), 1e-3)
        if rest > LOSS_TOLERANCE:
            return [(rest, f"{rest:.0%} of it are not in the loss of the analysis, which leaves out penalties")]
        return [(0.0, "")]


def _random_states(logits: Tensor) -> list[Tensor]:
    """Random states of the CPU and of the device of the logits."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(logits.device)] if logits.is_cuda else states


@contextlib.contextmanager
def _listening(outputs: list[tuple[nn.Module, Tensor]], module: pl.LightningModule, count: int) -> Iterator[None]:
    """Collect the outputs of modules that may be logits, unless hooks would have the module compiled again."""
    if is_compiled(module):
        yield
        return

    def keep(each: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 2 and len(output) == count:
            outputs.append((each, output))

    handle = register_module_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _unchanged_parameters(module: nn.Module) -> Iterator[None]:
    """Restore the parameters. A step may update a teacher's."""
    kept = [(parameter, parameter.detach().clone()) for parameter in module.parameters() if not is_lazy(parameter)]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in kept:
                if not torch.equal(parameter, value):
                    parameter.copy_(value)


@contextlib.contextmanager
def _silent_twin(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[pl.LightningModule]:
    """A copy in training mode that shares the parameters and the data, and logs nothing."""
    kinds = (Dataset, DataLoader, pl.LightningDataModule)
    shared = [trainer, *module.parameters(), *(each for each in vars(module).values() if isinstance(each, kinds))]
    twin = copy.deepcopy(module, {id(each): each for each in shared}).train()
    vars(twin).update(log=_nothing, log_dict=_nothing)
    loggers, trainer.loggers = trainer.loggers, []
    try:
        yield twin
    finally:
        trainer.loggers = loggers


def _nothing(*_: Any, **__: Any) -> None:
    """Log nothing."""


def _before_log_softmax(gradient: Tensor, logits: Tensor) -> Tensor:
    """The gradient, (B · C,). For log-probabilities, that of the logits before, since others cannot be reached."""
    logits = logits.detach().float()
    if float(logits.logsumexp(dim=1).abs().max()) < TOLERANCE:
        gradient = gradient - logits.exp() * gradient.sum(dim=1, keepdim=True)
    return gradient.flatten()


def _allows_two_passes(loss: Tensor, ends: set[Any]) -> bool:
    """Whether the graph from the loss to its ends has no functions in Python, which may overwrite what they keep."""
    seen, left = set(ends), [loss.grad_fn]
    while left:
        node = left.pop()
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return False
        if node is not None and node not in seen:
            seen.add(node)
            left.extend(following for following, _ in node.next_functions)
    return True
