"""A few EK-FAC steps on the weighted training loss, from the fitted model."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_pareto.arguments import checked_count, checked_number
from lightning_pareto.candidates.evidence import Evidence
from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.influence.curvature import CurvatureError, Fisher, fit_curvature
from lightning_pareto.influence.curvature.base import Directions
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.measures import logit_gradient
from lightning_pareto.influence.passes import GradientPass

LENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Lengths of a step that are tried, in Newton steps."""

PENALTY = 2.0
"""How much a point that a category falls counts against a point that the mean rises."""

TIE = 1e-3
"""Weight of the mean probability of the label, which tells apart models of equal accuracy."""


@dataclass(frozen=True)
class WeightedSteps:
    """Steps ``θ − t (H + λI)⁻¹ ∇ Σ w_i ℓ_i(θ)`` with weights that raise the known categories.

    An ordinary fit has minimised the plain training loss, wrong labels included. A few second-order steps on the
    weighted loss undo part of that, at the cost of a few passes over the data. The curvature is that of the fitted
    model. The length t of each step is the one with the best accuracy on the known samples, where falls count double,
    and the steps end when no length helps.

    Attributes:
        steps: largest number of steps.
        damping: λ of each layer, as a share of the mean eigenvalue of its block of H.
        curvature_samples: fit the curvature to this many random training samples; None for all.

    Raises:
        ValueError: for options out of range.

    Example:
        >>> WeightedSteps(steps=2)
        WeightedSteps(steps=2, damping=0.1, curvature_samples=10000)

        ``ParetoTuner(…, candidates=[WeightedSteps(steps=2)])`` tries them before another fit.
    """

    steps: int = 4
    damping: float = 0.1
    curvature_samples: int | None = 10_000

    def __post_init__(self) -> None:
        checked_count(self.steps, "steps must be a whole number, at least 1", least=1)
        checked_number(self.damping, "damping must be > 0", lambda x: x > 0)

    @property
    def name(self) -> str:
        """What it is called in results."""
        return "weighted steps"

    def propose(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """See :meth:`Candidate.propose`."""
        train = evidence.train
        fisher = Fisher.draw("sampled", train.size, evidence.seed, train.probe.task.loss)
        sample = train.sample(self.curvature_samples, evidence.seed)
        curvature = fit_curvature("ekfac", sample, damping=self.damping, fisher=fisher)
        before, best, changed = evidence.outcome(), None, False
        for _ in range(self.steps):
            gradient = weighted_gradients(train, evidence.weights[:, None])
            length, best = line_search(evidence, step := curvature.solve(gradient), before, best)
            if not length:
                break
            move(step, length)
            changed = True
        names = {name for layer in train.probe.layers for name in layer.names} if changed else set()
        return {name: p.detach().clone() for name, p in evidence.module.named_parameters() if name in names}


def weighted_gradients(train: GradientPass, weights: Tensor) -> Directions:
    """Gradients of D weighted mean losses, (D, R, O, I) for every layer, on all processes.

    Args:
        train: a pass over training samples.
        weights: D weights per dataset index, (N, D), perhaps of more samples than those of the pass.
    """
    loss = train.probe.task.loss

    def sums() -> dict[Layer, Tensor]:
        sums: dict[Layer, Tensor] = {}
        for indices, _, forward in train("weighted gradient"):
            signal = logit_gradient(loss, forward.logits, forward.targets)
            mine = weights[indices].to(signal)
            for layer, part, factors in forward.backward(signal):
                if layer not in sums:
                    sums[layer] = factors.zeros(weights.shape[1])
                factors.add_weighted(sums[layer], mine[part].to(sums[layer]))
        return sums

    totals = train.all_reduce(train.run("weighted gradient", sums))
    if not totals:
        raise CurvatureError("the model's output depends on no covered parameter: cover other layers, layers=[…]")
    mass = weights[torch.tensor(train.indices)].sum(dim=0)
    return {layer: total / mass.to(total)[:, None, None, None] for layer, total in totals.items()}


def line_search(
    evidence: Evidence, step: Directions, before: Outcome, best: float | None = None
) -> tuple[float, float]:
    """The length of a step with the best score on the known samples, and this score; 0 if no length is better.

    Args:
        evidence: the known samples, and the module before the step.
        step: (1, R, O, I) for every layer.
        before: how the fitted model predicts the known samples.
        best: score to beat; that of ``before`` by default.
    """
    length, best = 0.0, _score(before, before) if best is None else best
    for tried in LENGTHS:
        with moved(step, tried):
            score = _score(evidence.outcome(), before)
        if score > best:
            length, best = tried, score
    return length, best


def _score(outcome: Outcome, before: Outcome) -> float:
    falls = np.minimum(outcome.accuracy - before.accuracy, 0)
    return float(outcome.macro + PENALTY * np.nanmean(falls) + TIE * np.nanmean(outcome.soft_accuracy))


@torch.no_grad()
def move(step: Directions, length: float) -> None:
    """Subtract a step, (1, R, O, I) for every layer, from the parameters."""
    for layer, direction in step.items() if length else ():
        for parameter, change in zip(layer.parameters, layer.unpack(direction), strict=True):
            parameter.sub_(length * change[0].to(parameter))


@contextlib.contextmanager
def moved(step: Directions, length: float) -> Iterator[None]:
    """Subtract a step, (1, R, O, I) for every layer, from the parameters for a while."""
    kept = [parameter.detach().clone() for layer in step for parameter in layer.parameters]
    move(step, length)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip((p for layer in step for p in layer.parameters), kept, strict=True):
                parameter.copy_(value)
