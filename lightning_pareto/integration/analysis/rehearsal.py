"""Tries the analysis on a few batches before the fit, to find errors and to forecast its cost."""

import math
from collections.abc import Callable, Sequence

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Timer
from torch.utils.data import DataLoader

from lightning_pareto.data.loaders import size_of_batches
from lightning_pareto.display.terminal import gibibytes, significant, wrapped
from lightning_pareto.influence.cost import Cost
from lightning_pareto.influence.layers import NOT, select_layers
from lightning_pareto.influence.sharding import LostProcessError, OtherProcessError
from lightning_pareto.integration.analysis.run import AnalysisOptions, cost_of
from lightning_pareto.integration.trainer.data_source import DataSource
from lightning_pareto.integration.trainer.namespaces import is_a
from lightning_pareto.integration.trainer.processes import rank_zero_warn, shard_of

LONG = 60.0
"""Seconds from which on the duration of an analysis is worth a warning."""


def rehearse(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    data: DataSource,
    options: AnalysisOptions,
    category_names: Sequence[str] | None,
    say: Callable[[str], None],
) -> None:
    """Find out before the fit whether the analysis will work, and say what it will cost.

    An untrained model may fail where a trained one works. So only a ValueError or TypeError ends the fit, and any other
    error becomes a warning.

    Args:
        trainer: before its first training step.
        module: the module to be trained.
        data: the samples.
        options: those of the analysis.
        category_names: names of the categories; None for numbers.
        say: takes the estimate on rank zero.

    Raises:
        ValueError: about data or model; also TypeError.
        OtherProcessError: if another process found such an error.
    """
    error: Exception | None = None
    try:
        cost = cost_of(trainer, module, data, options, category_names)
    except LostProcessError:
        raise
    except Exception as found:
        error = found
    shard = shard_of(trainer, module)
    if not shard.all(not isinstance(error, (ValueError, TypeError))):
        raise error or OtherProcessError(
            "another process failed during the trial run; see its own error for the reason"
        )
    if not shard.all(error is None):
        reason = error or "another process could not do it"
        rank_zero_warn(f"The trial run of the analysis before the fit failed: {reason}. The fit continues")
        return
    if trainer.is_global_zero:
        say("\n".join(wrapped(f"Analysis after the fit: {cost}.")))
    _warn_of_cost(cost, _epochs_of_fit(trainer, data, cost), _fewer_layers(module, options.influence.layers))


def _epochs_of_fit(trainer: pl.Trainer, data: DataSource, cost: Cost) -> float:
    """Length of the fit in epochs over the whole training set, at most; infinite without a limit."""
    size: int = len(data.train(trainer).dataset)  # type: ignore[arg-type]
    fitted = trainer.train_dataloader
    batch = size_of_batches(fitted if isinstance(fitted, DataLoader) else data.train(trainer))
    seen = trainer.accumulate_grad_batches * batch * trainer.world_size
    steps = trainer.estimated_stepping_batches  # -1 for a loader without a length
    return min(steps * seen / size if steps >= 0 else math.inf, _epochs_until_timeout(trainer, cost))


def _epochs_until_timeout(trainer: pl.Trainer, cost: Cost) -> float:
    """How many epochs ``max_time`` leaves, at the speed of the timed ones."""
    timers = [each for each in trainer.callbacks if is_a(each, Timer)]  # type: ignore[attr-defined]
    seconds = [left for timer in timers if (left := timer.time_remaining()) is not None]
    return min(seconds) * cost.epochs / cost.seconds if seconds and cost.epochs and cost.seconds else math.inf


def _fewer_layers(module: pl.LightningModule, layers: Sequence[str] | None) -> list[str]:
    """Patterns that cover fewer parameters: all but a layer that has most of them, or the last layer alone."""
    covered = select_layers(module, layers)
    largest, last = max(covered, key=lambda layer: layer.size), covered[-1]
    if largest is last or 2 * largest.size < sum(layer.size for layer in covered):
        return [f"{last.name}.*"] if last.name and len(last.names) > 1 else [*last.names]
    return [*(layers or ()), *(NOT + name for name in largest.names)]


def _warn_of_cost(cost: Cost, fit: float, layers: list[str]) -> None:
    if not cost.fits:
        rank_zero_warn(
            f"the analysis after the fit needs {cost.size}, but only {gibibytes(cost.free)} are free. Cover fewer "
            f"parameters, layers={layers}, or lower max_memory if you have set it"
        )
    elif cost.epochs is not None and cost.epochs > fit and (cost.seconds or 0.0) > LONG:
        rank_zero_warn(
            f"the analysis after the fit takes as long as {significant(cost.epochs)} epochs of training, longer than "
            f"the fit ({significant(fit)} epochs). Cover fewer parameters, for instance layers={layers}, or lower "
            "folds, not below 3: ParetoCallback(folds=4)"
        )
