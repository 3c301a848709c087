"""Applies a candidate to the model of a trial, without a fit."""

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch

from lightning_pareto.candidates.evidence import Candidate, Evidence
from lightning_pareto.influence.fingerprint import fingerprint_of
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.influence.passes import PlanChangedError
from lightning_pareto.influence.setup import set_up
from lightning_pareto.integration.analysis.run import AnalysisOptions, arguments_of, unnoticed
from lightning_pareto.integration.trainer.data_source import DataSource
from lightning_pareto.integration.trainer.progress import progress_of
from lightning_pareto.reweighting.weights import SampleWeights


@dataclass(frozen=True, eq=False)
class Remedy:
    """A candidate and what it may know.

    Attributes:
        candidate: what to do with the model.
        known: validation samples that it may learn from, (n,) bool.
        category: category of every validation sample, (n,).
        influence: influence of the training samples on the known samples.
        weights: weights of the training samples, made from the known samples.
    """

    candidate: Candidate
    known: npt.NDArray[np.bool_]
    category: npt.NDArray[np.int64]
    influence: InfluenceMatrix
    weights: SampleWeights

    @property
    def key(self) -> str:
        """A text that differs for other candidates, also for changed code, and for other samples or weights."""
        try:
            code = inspect.getsource(self.candidate.propose)
        except (OSError, TypeError):  # as of partial functions, or of what was typed into an interpreter
            code = ""
        return fingerprint_of([repr(self.candidate), self.candidate.name, code, self.known, self.weights.values])


def apply(
    trainer: pl.Trainer, module: pl.LightningModule, data: DataSource, options: AnalysisOptions, remedy: Remedy
) -> npt.NDArray[np.float64] | None:
    """Give the module the parameters that a candidate proposes, on all processes.

    Returns:
        The weights that it proposes for a fit, (N,), with mean 1; None if it proposes parameters.

    Raises:
        TypeError: if it returns anything else.
        ValueError: if it proposes a parameter that the module does not have, values of another shape, or weights that
            no fit can use.
    """
    arguments = arguments_of(trainer, module, data, options, None)
    reading, loaders = arguments["reading"], (arguments["train_dataloader"], arguments["val_dataloader"])
    fitted = copy.deepcopy(module.state_dict())
    known = np.flatnonzero(remedy.known).tolist()
    with unnoticed(trainer), progress_of(trainer) as progress:
        execution = replace(arguments["execution"], progress=progress)
        with set_up(
            module, *loaders, task=reading.task, layers=options.influence.layers, execution=execution
        ) as passes:
            evidence = Evidence(
                module=module,
                train=passes[0],
                validation=replace(passes[1], chosen=known),
                category=torch.from_numpy(remedy.category[remedy.known]),
                categories=len(remedy.influence.category_names),
                influence=remedy.influence,
                weights=torch.from_numpy(remedy.weights.values),
                seed=options.influence.seed,
            )
            while True:
                try:
                    found = remedy.candidate.propose(evidence)
                    break
                except PlanChangedError:  # now it loops over a layer, so earlier results do not fit
                    pass
                finally:
                    module.load_state_dict(fitted, strict=False)
    if isinstance(found, torch.Tensor):
        return _checked_weights(remedy, found.detach().cpu().double().numpy())
    if not isinstance(found, Mapping):
        raise TypeError(
            f"{remedy.candidate.name!r} returns {type(found).__name__}. Return new values by name, {{}} if nothing is "
            "better, or a tensor of weights for a fit"
        )
    wrong = [name for name, value in found.items() if name not in fitted or not _fits(value, fitted[name])]
    if wrong:
        raise ValueError(
            f"{remedy.candidate.name!r} proposes values for {wrong[:4]}, which are not finite tensors with the name "
            f"and the shape of a parameter or buffer of {type(module).__name__}"
        )
    module.load_state_dict(dict(found), strict=False)
    return None


def _fits(value: Any, present: torch.Tensor) -> bool:
    if not isinstance(value, torch.Tensor) or value.shape != present.shape:
        return False
    return bool(torch.isfinite(value).all()) or not bool(torch.isfinite(present).all())  # as masks with infinities


def _checked_weights(remedy: Remedy, proposed: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    name, size = remedy.candidate.name, len(remedy.weights)
    if proposed.shape != (size,):
        raise ValueError(
            f"{name!r} proposes a tensor of shape {tuple(proposed.shape)}. Weights for a fit have the shape ({size},), "
            "one per training sample"
        )
    try:
        weights = SampleWeights(proposed).values
    except ValueError as error:
        raise ValueError(f"{name!r} proposes weights that no fit can use: {error}") from error
    scaled: npt.NDArray[np.float64] = weights / weights.mean()
    return scaled
