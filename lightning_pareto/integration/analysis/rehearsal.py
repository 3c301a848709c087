"""Tries the analysis on a few batches before the fit, to find errors and to forecast its cost."""

from collections.abc import Callable, Sequence

import lightning.pytorch as pl
from torch.utils.data import DataLoader

from lightning_pareto.data.loaders import size_of_batches
from lightning_pareto.display.terminal import gibibytes, wrapped
from lightning_pareto.influence.cost import Cost
from lightning_pareto.influence.sharding import LostProcessError, OtherProcessError
from lightning_pareto.integration.analysis.run import AnalysisOptions, cost_of
from lightning_pareto.integration.trainer.data_source import DataSource
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
    _warn_of_cost(cost, _epochs_of_fit(trainer, data), _last_layer(module))


def _epochs_of_fit(trainer: pl.Trainer, data: DataSource) -> float:
    """Length of the fit in epochs over the whole training set."""
    size: int = len(data.train(trainer).dataset)  # type: ignore[arg-type]
    fitted = trainer.train_dataloader
    batch = size_of_batches(fitted if isinstance(fitted, DataLoader) else data.train(trainer))
    seen = trainer.accumulate_grad_batches * batch * trainer.world_size
    return trainer.estimated_stepping_batches * seen / size


def _last_layer(module: pl.LightningModule) -> str:
    """A shell pattern of the last layer's parameters."""
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    layer, _, parameter = names[-1].rpartition(".")
    return f"{layer}.*" if layer else parameter


def _warn_of_cost(cost: Cost, fit: float, layers: str) -> None:
    if not cost.fits:
        rank_zero_warn(
            f"the analysis after the fit needs {gibibytes(cost.memory)} for directions, but only "
            f"{gibibytes(cost.free)} are free. Bound it: ParetoCallback(max_memory={max(cost.free / 4, 0.1):.1g}), "
            f"which takes more passes. Or lower folds, or cover fewer parameters, layers=['{layers}']"
        )
    elif cost.epochs is not None and cost.epochs > fit and (cost.seconds or 0.0) > LONG:
        rank_zero_warn(
            f"the analysis after the fit takes as long as {cost.epochs:.2g} epochs of training, longer than the fit "
            f"({fit:.2g}). Halve the directions with ParetoCallback(folds=4), or cover fewer parameters, for instance "
            f"layers=['{layers}']"
        )
