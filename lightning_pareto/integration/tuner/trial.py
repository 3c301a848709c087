"""One fit of a search."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from lightning_pareto.influence.fingerprint import fingerprint_of
from lightning_pareto.integration.tuner.remedies import Remedy
from lightning_pareto.reweighting.weights import SampleWeights

Start = Literal["initial", "weights", "checkpoint"]
"""Where a trial starts: at the module as given, at the weights of a checkpoint, or at everything that it holds."""


@dataclass(frozen=True)
class Trial:
    """A fit to make.

    Attributes:
        name: name of the trial.
        start: where it starts. From ``"checkpoint"``, optimizers, schedulers and scalers continue too.
        epochs: epochs to train; None for the trainer's own number, 0 to only measure the model at the start.
        checkpoint: the checkpoint to start from.
        weights: weights of the training samples; None for an ordinary fit.
        keeps: whether to keep checkpoints: of the two best epochs by validation, or of the end of a trial that starts
            from a checkpoint.
        analyse: whether influence is estimated at the start.
        joins: which validation samples are also trained on, (n,) bool. The others alone measure the fit. None for none.
        remedy: what to do with the model at the start; None for nothing.
        stops_after: end a complete fit after this many epochs of its schedule; 0 for all of them.
    """

    name: str
    start: Start
    epochs: int | None
    checkpoint: Path | None = None
    weights: SampleWeights | None = None
    keeps: bool = False
    analyse: bool = False
    joins: npt.NDArray[np.bool_] | None = None
    remedy: Remedy | None = None
    stops_after: int = 0

    @property
    def complete(self) -> bool:
        """Whether it makes a complete fit, which may stop early."""
        return self.start != "checkpoint" and not self.stops_after

    @property
    def unmeasured(self) -> bool:
        """Whether it knows all samples that could measure it."""
        known = self.joins if self.remedy is None else self.remedy.known
        return known is not None and bool(known.all())

    def key(self, identity: str) -> str:
        """A text that is different for every trial of a search and for every search."""
        weights = None if self.weights is None else fingerprint_of(self.weights.values)
        start = None if self.checkpoint is None else (str(self.checkpoint), self.checkpoint.stat().st_size)
        joins = None if self.joins is None else fingerprint_of(self.joins)
        remedy = None if self.remedy is None else self.remedy.key
        how = [self.start, self.epochs, start, weights, self.keeps, self.analyse, joins, self.stops_after, remedy]
        return json.dumps([identity, *how])
