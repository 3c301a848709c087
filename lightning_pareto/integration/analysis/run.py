"""From a trainer that has just fitted a model to the influence of its training samples."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_pareto.influence.averaging import average_influence
from lightning_pareto.influence.estimate import estimate_influence
from lightning_pareto.influence.layers import select_layers
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.influence.options import InfluenceOptions
from lightning_pareto.influence.stages import StagesError
from lightning_pareto.integration.analysis.checkpoints import Checkpoint, checkpoints, name_of, weights_of
from lightning_pareto.integration.analysis.resumption import STAGES, remove_stages, stages_kept
from lightning_pareto.integration.trainer.batches import transfer_of, validating
from lightning_pareto.integration.trainer.data_source import ParetoData
from lightning_pareto.integration.trainer.processes import shard_of, warnings_of_one
from lightning_pareto.integration.trainer.progress import progress_bar
from lightning_pareto.pareto.verdict import ParetoVerdict, check_pareto
from lightning_pareto.storage.run_folders import INFLUENCE_FILE


def influence_of(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    data: ParetoData,
    category_names: Sequence[str] | None,
    options: InfluenceOptions,
    max_memory: float | None,
    checkpoint: Checkpoint,
    folder: Path | None,
    say: Callable[[str], None] | None = None,
) -> InfluenceMatrix:
    """Estimate influence at the chosen weights, all processes together.

    Args:
        trainer: after its fit.
        module: the trained module.
        data: the samples.
        category_names: names of the categories, as far as they are known.
        options: of the estimate.
        max_memory: bound in GiB.
        checkpoint: which weights.
        folder: where finished stages are kept until all is done, None for nowhere; of several checkpoints those of
            the one under way.
        say: takes a line for the user on rank zero, when an interrupted analysis goes on.

    Raises:
        Exception: whatever the estimate raises, on every process.
    """
    shard = shard_of(trainer, module)
    with shard.agreement("preparation of the analysis"):
        train, validation = data.train(trainer), data.validation(trainer)
        select_layers(module, options.layers)

    tell = say if say is not None and trainer.is_global_zero else lambda _: None
    if stages_kept(folder):
        tell(f"An interrupted analysis goes on in {folder}.")
    stages = None if folder is None else folder / STAGES

    def influence_at(number: int, path: str | None) -> InfluenceMatrix:
        with weights_of(module, path, shard) as used, progress_bar(trainer) as progress:
            estimate = functools.partial(
                estimate_influence,
                module,
                train,
                validation,
                task=data.task,
                categories=data.categories,
                category_names=category_names,
                max_memory=max_memory,
                stages_dir=None if stages is None else stages / str(number),
                shard=shard,
                transfer=transfer_of(trainer, module),
                val_transfer=transfer_of(trainer, module, data.val_dataloader_idx),
                context=trainer.precision_plugin.forward_context,
                progress=progress,
                **asdict(options),
            )
            try:
                influence = estimate()
            except StagesError:  # of a model before this one; every process sees the same files
                assert folder is not None
                tell("It was of another model or other options, and is made anew.")
                if trainer.is_global_zero:
                    remove_stages(folder)
                trainer.strategy.barrier()
                influence = estimate()
        return replace(influence, metadata={**influence.metadata, "checkpoint": name_of(used)})

    with warnings_of_one(trainer), isolate_rng(), validating(trainer):
        paths = checkpoints(trainer, checkpoint)
        return average_influence([influence_at(number, path) for number, path in enumerate(paths)])


def verdict_on(influence: InfluenceMatrix, folder: Path | None, options: dict[str, Any]) -> ParetoVerdict:
    """The verdict; if there is none, the error says where the influence is.

    Args:
        influence: what it is on.
        folder: where that was written; None if it is in memory only.
        options: of :func:`check_pareto`.

    Raises:
        RuntimeError: for whatever :func:`check_pareto` raises.
    """
    try:
        return check_pareto(influence, **options)
    except Exception as error:
        where = "callback.influence" if folder is None else f"InfluenceMatrix.load({str(folder / INFLUENCE_FILE)!r})"
        raise RuntimeError(f"{error}. The influence is kept: {where}") from error
