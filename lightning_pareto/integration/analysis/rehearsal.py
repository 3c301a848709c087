"""Tries the analysis on a few batches before the fit, so that nothing about it comes as a surprise afterwards."""

from collections.abc import Callable, Sequence

import lightning.pytorch as pl

from lightning_pareto.data.loaders import size_of_batches
from lightning_pareto.display.terminal import gibibytes, wrapped
from lightning_pareto.influence.cost import Cost
from lightning_pareto.influence.sharding import LostProcessError
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

    The model may be in a state that training mends. So only an error about data or model as such ends the fit, and any
    other becomes a warning.

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
    try:
        cost = cost_of(trainer, module, data, options, category_names)
    except LostProcessError:
        raise
    except Exception as error:
        if not shard_of(trainer, module).all(not isinstance(error, (ValueError, TypeError))):
            raise
        rank_zero_warn(f"ParetoCallback tried its analysis on a few batches before the fit, which failed: {error}")
        return
    if trainer.is_global_zero:
        say("\n".join(wrapped(f"Analysis after the fit: {cost}.")))
    _warn_of_cost(cost, _epochs_of_fit(trainer, data), _last_layer(module))


def _epochs_of_fit(trainer: pl.Trainer, data: DataSource) -> float:
    """Length of the fit in epochs over the whole training set."""
    loader = data.train(trainer)
    size: int = len(loader.dataset)  # type: ignore[arg-type]
    seen = trainer.accumulate_grad_batches * size_of_batches(loader) * trainer.world_size
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
