"""Makes the evidence that candidates get, without a Trainer."""

import contextlib
from dataclasses import replace

import numpy as np
import torch

from lightning_pareto import Evidence, InfluenceMatrix, Shard
from lightning_pareto.influence.options import Execution
from lightning_pareto.influence.setup import set_up
from lightning_pareto.influence.task import ClassificationTask
from tests._oracles import loader

CLASSES = 3


def mixture(size, seed, wrong=0.0):
    """Three overlapping classes in five dimensions, some of whose labels are wrong."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(size) % CLASSES
    x = torch.randn(size, 5, generator=generator)
    x[torch.arange(size), y] += 2.0
    swapped = torch.rand(size, generator=generator) < wrong
    return x, torch.where(swapped & (y == 0), 1, y), y


@contextlib.contextmanager
def evidence_of(module, train, validation, *, known=None, weights=None, shard=None):
    """Evidence from training and validation data (x, y), all of the latter by default."""
    known = range(len(validation[1])) if known is None else known
    with set_up(
        module,
        loader(*train, batch_size=40),
        loader(*validation, batch_size=40),
        task=ClassificationTask(),
        layers=None,
        execution=Execution(shard=shard or Shard()),
    ) as (train_pass, validation_pass):
        yield Evidence(
            module=module,
            train=train_pass,
            validation=replace(validation_pass, chosen=list(known)),
            category=validation[1][list(known)],
            categories=CLASSES,
            influence=InfluenceMatrix(
                np.zeros((len(train[1]), CLASSES), dtype=np.float32), train[1].numpy(), tuple("abc")
            ),
            weights=torch.ones(len(train[1]), dtype=torch.float64) if weights is None else weights,
        )
