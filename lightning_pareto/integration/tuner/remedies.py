"""Applies a candidate to the model of a trial, without a fit."""

import copy
from dataclasses import dataclass, replace

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch

from lightning_pareto.candidates.evidence import Candidate, Evidence
from lightning_pareto.influence.fingerprint import fingerprint_of
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
        categories: number of categories.
        weights: weights of the training samples, made from the known samples.
    """

    candidate: Candidate
    known: npt.NDArray[np.bool_]
    category: npt.NDArray[np.int64]
    categories: int
    weights: SampleWeights

    @property
    def key(self) -> str:
        """A text that differs for other candidates, samples or weights."""
        return fingerprint_of([repr(self.candidate), self.candidate.name, self.known, self.weights.values])


def apply(
    trainer: pl.Trainer, module: pl.LightningModule, data: DataSource, options: AnalysisOptions, remedy: Remedy
) -> None:
    """Give the module the parameters that a candidate proposes, on all processes.

    Raises:
        ValueError: if it proposes a parameter that the module does not have, or values of another shape.
    """
    arguments = arguments_of(trainer, module, data, options, None)
    reading, loaders = arguments["reading"], (arguments["train_dataloader"], arguments["val_dataloader"])
    fitted = copy.deepcopy(module.state_dict())
    known = np.flatnonzero(remedy.known).tolist()
    found = None
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
                categories=remedy.categories,
                weights=torch.from_numpy(remedy.weights.values),
                seed=options.influence.seed,
            )
            while found is None:
                try:
                    found = remedy.candidate.propose(evidence)
                except PlanChangedError:  # now it loops over a layer, so earlier results do not fit
                    pass
                finally:
                    module.load_state_dict(fitted, strict=False)
    wrong = [name for name, value in found.items() if name not in fitted or value.shape != fitted[name].shape]
    if wrong:
        raise ValueError(
            f"{remedy.candidate.name!r} proposes values for {wrong[:4]}, which are not parameters or buffers of "
            f"{type(module).__name__}, or have another shape there"
        )
    module.load_state_dict(dict(found), strict=False)
