"""A few EK-FAC steps on the weighted training loss, from the fitted model."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_pareto.arguments import checked_count, checked_number
from lightning_pareto.candidates.evidence import Evidence
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
        before = _accuracy(evidence)[0]
        best, moved = _score(evidence, before), False
        for _ in range(self.steps):
            step, length = curvature.solve(weighted_gradient(train, evidence.weights)), 0.0
            for tried in LENGTHS:
                with _moved(step, tried):
                    score = _score(evidence, before)
                if score > best:
                    best, length = score, tried
            if not length:
                break
            _move(step, length)
            moved = True
        names = {name for layer in train.probe.layers for name in layer.names} if moved else set()
        return {name: p.detach().clone() for name, p in evidence.module.named_parameters() if name in names}


def weighted_gradient(train: GradientPass, weights: Tensor) -> Directions:
    """Gradient of the mean weighted loss, (1, R, O, I) for every layer, on all processes.

    Args:
        train: a pass over the training samples.
        weights: one weight per dataset index, (N,).
    """
    loss = train.probe.task.loss

    def sums() -> dict[Layer, Tensor]:
        sums: dict[Layer, Tensor] = {}
        for indices, _, forward in train("weighted gradient"):
            signal = logit_gradient(loss, forward.logits, forward.targets)
            signal = signal * weights[indices, None].to(signal)
            for layer, part, factors in forward.backward(signal):
                if layer not in sums:
                    sums[layer] = factors.zeros(1)
                factors.add_to(sums[layer], torch.zeros(len(signal[part]), dtype=torch.int64, device=signal.device))
        return sums

    totals = train.all_reduce(train.run("weighted gradient", sums))
    if not totals:
        raise CurvatureError("the model's output depends on no covered parameter: cover other layers, layers=[…]")
    return {layer: total / float(weights.sum()) for layer, total in totals.items()}


def _accuracy(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """Accuracy of the categories that occur, and the mean probability of their labels."""
    logits, labels = evidence.read()
    right = (logits.argmax(dim=1) == labels).double()
    probability = logits.softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
    return evidence.means(right), evidence.means(probability)


def _score(evidence: Evidence, before: Tensor) -> float:
    accuracy, probability = _accuracy(evidence)
    falls = (accuracy - before).clamp(max=0)
    return float(accuracy.mean() + PENALTY * falls.mean() + TIE * probability.mean())


@torch.no_grad()
def _move(step: Directions, length: float) -> None:
    for layer, direction in step.items():
        for parameter, change in zip(layer.parameters, layer.unpack(direction), strict=True):
            parameter.sub_(length * change[0].to(parameter))


@contextlib.contextmanager
def _moved(step: Directions, length: float) -> Iterator[None]:
    """Move the parameters for a while."""
    kept = [parameter.detach().clone() for layer in step for parameter in layer.parameters]
    _move(step, length)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip((p for layer in step for p in layer.parameters), kept, strict=True):
                parameter.copy_(value)
