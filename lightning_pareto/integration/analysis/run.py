"""From a trainer that has just fitted a model to the influence of its training samples."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_pareto.candidates.judged_step import judge_step
from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.influence.averaging import average_influence
from lightning_pareto.influence.cost import Cost, forecast
from lightning_pareto.influence.estimate import Estimated, estimating
from lightning_pareto.influence.layers import select_layers
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.influence.options import Execution, InfluenceOptions, Reading
from lightning_pareto.influence.sharding import LostProcessError
from lightning_pareto.influence.stages import StagesError
from lightning_pareto.integration.analysis.checkpoints import (
    Checkpoint,
    check_checkpoint,
    checkpoints,
    weights_of,
)
from lightning_pareto.integration.analysis.resumption import STAGES, remove_stages, stages_kept
from lightning_pareto.integration.trainer.batches import transfer_of, validating
from lightning_pareto.integration.trainer.data_source import DataSource
from lightning_pareto.integration.trainer.processes import rank_zero_warn, shard_of, warnings_on_rank_zero
from lightning_pareto.integration.trainer.progress import progress_of
from lightning_pareto.pareto.admissible import Float
from lightning_pareto.pareto.demand import Limits, Targets, check_floors, chosen_categories
from lightning_pareto.pareto.verdict import ParetoVerdict, check_options, check_pareto
from lightning_pareto.reweighting.reweight import solve_mass_preserving
from lightning_pareto.storage.run_folders import INFLUENCE_FILE


@dataclass(frozen=True, kw_only=True)
class AnalysisOptions:
    """How a callback estimates influence.

    Attributes:
        influence: what to compute.
        checkpoint: which weights to compute it at.
        max_memory: bound in GiB; None for no bound.
        required: whether a checkpoint that cannot be loaded is an error. Otherwise the last weights are used.

    Raises:
        ValueError: for values out of range.
    """

    influence: InfluenceOptions
    checkpoint: Checkpoint = "best"
    max_memory: float | None = None
    required: bool = False

    def __post_init__(self) -> None:
        check_checkpoint(self.checkpoint)
        Execution(max_memory=self.max_memory)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a callback asks; see :func:`check_pareto` for the fields and errors."""

    budget: float
    level: float
    targets: Targets = None
    floors: Limits = None

    def __post_init__(self) -> None:
        check_options(self.budget, self.level)
        check_floors(self.floors, self.targets)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the influence says about it, for :meth:`InfluenceMatrix.asked`."""
        targets = [self.targets] if isinstance(self.targets, (str, int)) else self.targets
        named = None if targets is None else [each if isinstance(each, str) else int(each) for each in targets]
        return {"budget": self.budget, "level": self.level, "targets": named}


def cost_of(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    data: DataSource,
    options: AnalysisOptions,
    category_names: Sequence[str] | None = None,
) -> Cost:
    """Check data and model before the fit as the analysis would after it, and time a few batches.

    Arguments are those of :func:`influence_of`.

    Raises:
        Exception: what the analysis would raise about data and model, on every process.
    """
    with unnoticed(trainer):
        return forecast(module, **arguments_of(trainer, module, data, options, category_names))


def influence_of(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    data: DataSource,
    options: AnalysisOptions,
    *,
    category_names: Sequence[str] | None = None,
    folder: Path | None = None,
    say: Callable[[str], None] | None = None,
    metadata: Mapping[str, Any] | None = None,
    earlier: Mapping[str, int | None] | None = None,
    then: Callable[[Estimated], None] | None = None,
) -> InfluenceMatrix:
    """Estimate influence at the chosen weights, all processes together.

    Args:
        trainer: after its fit.
        module: the trained module.
        data: the samples.
        options: how to estimate.
        category_names: names of the categories; None for numbers.
        folder: where finished stages are kept until all are done; None for nowhere. With several checkpoints, those of
            the current one are kept.
        say: takes a line for the user on rank zero; None for silence.
        metadata: entries to add to the result's metadata.
        earlier: checkpoints of earlier fits, see :func:`checkpoints_of_earlier_fits`.
        then: is called while the weights of a single checkpoint are loaded, on every process.

    Raises:
        Exception: whatever the estimate raises, on every process.
    """
    arguments = arguments_of(trainer, module, data, options, category_names)
    shard = shard_of(trainer, module)
    tell = say if say is not None and trainer.is_global_zero else lambda _: None
    if stages_kept(folder):
        tell(f"Resuming the interrupted analysis in {folder}.")

    def estimated() -> InfluenceMatrix:
        with estimating(module, **arguments) as found:
            if then is not None and len(paths) == 1:
                then(found)
            return found.influence

    def influence_at(number: int, path: str | None) -> InfluenceMatrix:
        with weights_of(module, path, shard, options.required) as used, progress_of(trainer, say) as progress:
            stages = None if folder is None else folder / STAGES / str(number)
            arguments["execution"] = replace(arguments["execution"], progress=progress, stages_dir=stages)
            try:
                influence = estimated()
            except StagesError:  # they belong to an earlier model; every process sees the same files
                assert folder is not None
                tell("Its stages belong to another model or other options: the analysis starts over.")
                if trainer.is_global_zero:
                    remove_stages(folder)
                trainer.strategy.barrier()
                influence = estimated()
        name = "last weights" if used is None else Path(used).name
        return replace(influence, metadata={**influence.metadata, **(metadata or {}), "checkpoint": name})

    with unnoticed(trainer):
        paths = checkpoints(trainer, options.checkpoint, earlier)
        return average_influence([influence_at(number, path) for number, path in enumerate(paths)])


@contextlib.contextmanager
def unnoticed(trainer: pl.Trainer) -> Iterator[None]:
    """Leave no trace in random states, use batches as in validation, and warn on rank zero only."""
    with warnings_on_rank_zero(trainer), isolate_rng(), validating(trainer):
        yield


def arguments_of(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    data: DataSource,
    options: AnalysisOptions,
    category_names: Sequence[str] | None,
) -> dict[str, Any]:
    """Arguments of an estimate besides the module."""
    shard = shard_of(trainer, module)
    with shard.agreement("preparation of the analysis"):
        train, validation = data.train(trainer), data.validation(trainer)
        weights = data.weights_of_fit(trainer)
        select_layers(module, options.influence.layers)
    reading = Reading(task=data.task, categories=data.categories, category_names=category_names, weights=weights)
    execution = Execution(
        shard=shard,
        transfer=transfer_of(trainer, module),
        val_transfer=transfer_of(trainer, module, data.val_dataloader_idx),
        context=trainer.precision_plugin.forward_context,
        max_memory=options.max_memory,
    )
    loaders = {"train_dataloader": train, "val_dataloader": validation}
    return {**loaders, "reading": reading, "options": options.influence, "execution": execution}


def measure_step(estimated: Estimated, question: Question) -> tuple[Outcome | None, Outcome | None]:
    """The model's outcome and that after a small step, see :func:`judge_step`. An error becomes a warning."""

    def weigh(influence: InfluenceMatrix) -> Float:
        if not (chosen_categories(influence.category_names, question.targets) & influence.present).any():
            raise ValueError("half of the validation folds have no sample of the targets. Add some, or lower folds")
        return solve_mass_preserving(influence, question.targets, question.budget)

    try:
        return judge_step(estimated, weigh)
    except LostProcessError:
        raise
    except Exception as error:  # the influence is worth more
        rank_zero_warn(f"no small step was measured: {error}")
        return None, None


def verdict_on(influence: InfluenceMatrix, question: Question, folder: Path | None) -> ParetoVerdict:
    """The verdict. If the check fails, the error says where the influence is.

    Args:
        influence: the influence.
        question: what to ask.
        folder: where the influence was written; None if it is in memory only.

    Raises:
        RuntimeError: for whatever :func:`check_pareto` raises.
    """
    try:
        return check_pareto(influence, **asdict(question))
    except Exception as error:
        where = "callback.influence" if folder is None else f"InfluenceMatrix.load({str(folder / INFLUENCE_FILE)!r})"
        raise RuntimeError(f"{error}. The influence is kept: {where}") from error
