"""The last layer, refitted to known validation samples so that no category's loss rises."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from lightning_pareto.candidates.evidence import Evidence, category_means
from lightning_pareto.influence.gradients import Forward

PENALTIES = (10.0, 1.0, 0.1, 0.01, 0.001)
"""Weights of the squared distance from the fitted head that are tried, the strongest first."""

FOLDS = 4
"""Number of folds of the known samples by which the penalty is chosen."""

HARM, SOFTNESS = 10.0, 0.01
"""Weight of a rise of a category's loss, and the width of its smooth threshold."""

ITERATIONS = 60
"""Most iterations of L-BFGS for one penalty. Each penalty starts where the one before has ended."""

Layer = tuple[Tensor, Tensor]
"""Weight, (C, d), and bias, (C,)."""

EXACT = 1e-3
"""Largest relative difference between the outputs of the last layer and the logits."""


@dataclass(frozen=True)
class HeadRefit:
    """The last linear layer, refitted to the features of the known validation samples.

    It minimises the mean over the categories of their mean losses. A category whose loss rises above that of the fitted
    model costs ten times as much, so that no category pays for another. The distance from the fitted layer is
    penalised, by a weight chosen in cross-validation among the known samples. The problem is convex.

    Before all that, the fitted layer is scaled to the temperature that fits the known samples best, which changes no
    prediction. Otherwise an overconfident model would gain most by becoming less so.

    Example:
        >>> HeadRefit().name
        'last layer refitted'

    Source: last-layer retraining on held-out data (Kirichenko et al. 2023, arXiv:2204.02937); the penalty for harm is
    this package's own.
    """

    @property
    def name(self) -> str:
        """What it is called in results."""
        return "last layer refitted"

    def propose(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """See :meth:`Candidate.propose`. It proposes nothing unless the logits come from a trainable linear layer."""
        prefix, head = _last_layer(evidence)
        if head is None:
            return {}
        features, labels = _features(evidence, head)
        weight, bias = (None if p is None else p.detach().cpu().double() for p in (head.weight, head.bias))
        assert weight is not None
        problem = _Problem(
            features=features,
            labels=labels,
            category=evidence.category,
            categories=evidence.categories,
            weight=weight,
            bias=torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias,
            has_bias=bias is not None,
        ).scaled()
        found = dict(zip(("weight", "bias"), problem.solve(problem.best_penalty(evidence.seed)), strict=True))
        fitted = {name: p for name, p in (("weight", head.weight), ("bias", head.bias)) if p is not None}
        return {f"{prefix}{name}": found[name].to(p) for name, p in fitted.items()}


def _last_layer(evidence: Evidence) -> tuple[str, nn.Linear | None]:
    """The linear layer whose outputs are the logits, and what the names of its parameters begin with; or None."""
    outputs: list[tuple[str, nn.Linear, Tensor]] = []

    def watch(name: str, layer: nn.Linear) -> RemovableHandle:
        return layer.register_forward_hook(lambda _, __, output: outputs.append((name, layer, output)))

    layers = [(name, layer) for name, layer in evidence.module.named_modules() if isinstance(layer, nn.Linear)]
    hooks = [watch(name, layer) for name, layer in layers if _is_trainable(layer.weight)]
    try:
        first = evidence.validation.indices[:2]
        logits = evidence.validation.forward_of(first).logits.detach()
    finally:
        for hook in hooks:
            hook.remove()
    for name, layer, output in reversed(outputs):
        if output.shape == logits.shape and _same_prediction(output.detach(), logits):
            return f"{name}." if name else "", layer
    return "", None


def _is_trainable(weight: Tensor) -> bool:
    return isinstance(weight, nn.Parameter) and weight.requires_grad


def _same_prediction(output: Tensor, logits: Tensor) -> bool:
    """Whether the outputs are the logits, up to a constant for each sample."""
    ours, theirs = (z.double().log_softmax(dim=1) for z in (output, logits))
    return bool((ours - theirs).abs().max() <= EXACT * theirs.abs().max())


def _features(evidence: Evidence, head: nn.Linear) -> tuple[Tensor, Tensor]:
    """Inputs of the last layer, (n, d), and labels, (n,), of the known samples."""
    seen: list[Tensor] = []

    def read(forward: Forward) -> Tensor:
        return torch.cat([seen.pop().double().to(forward.targets.device), forward.targets[:, None].double()], dim=1)

    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    try:
        table = evidence.of_known("features of the last layer", read)
    finally:
        hook.remove()
    return table[:, :-1], table[:, -1].long()


@dataclass(frozen=True, eq=False, kw_only=True)
class _Problem:
    """The convex problem, on n samples with d features and C classes.

    Attributes:
        features: (n, d).
        labels: (n,).
        category: category of each sample, (n,).
        categories: their number.
        weight: the fitted layer's weight, (C, d).
        bias: its bias, (C,).
        has_bias: whether there is a bias to fit.
    """

    features: Tensor
    labels: Tensor
    category: Tensor
    categories: int
    weight: Tensor
    bias: Tensor
    has_bias: bool

    def scaled(self) -> "_Problem":
        """The same with the fitted layer at the best temperature."""
        logits = self.features @ self.weight.T + self.bias
        scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
        _minimise([scale], lambda: F.cross_entropy(scale.exp() * logits, self.labels))
        factor = scale.detach().exp()
        return replace(self, weight=factor * self.weight, bias=factor * self.bias)

    def on(self, chosen: Tensor) -> "_Problem":
        """The same on some of the samples, (n,) bool."""
        features, labels, category = (part[chosen] for part in (self.features, self.labels, self.category))
        return replace(self, features=features, labels=labels, category=category)

    def losses(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Mean loss of each category that occurs."""
        losses = F.cross_entropy(self.features @ weight.T + bias, self.labels, reduction="none")
        return category_means(losses, self.category, self.categories)

    def solve(self, last: float) -> Layer:
        """The layer for a penalty, by way of the stronger ones."""
        return next(layer for penalty, layer in self.path() if penalty == last)

    def path(self) -> Iterator[tuple[float, Layer]]:
        """Yield each penalty and its layer."""
        before, spread = self.losses(self.weight, self.bias), self.features.std(dim=0).clamp_min(1e-6)
        weight, bias = self.weight.clone().requires_grad_(), self.bias.clone().requires_grad_(self.has_bias)

        def objective(penalty: float) -> Tensor:
            losses = self.losses(weight, bias)
            harm = SOFTNESS * F.softplus((losses - before) / SOFTNESS).sum()
            distance = ((weight - self.weight) * spread).square().sum() + (bias - self.bias).square().sum()
            return losses.mean() + HARM * harm + penalty * distance

        for penalty in PENALTIES:
            _minimise([weight, bias][: 1 + self.has_bias], functools.partial(objective, penalty))
            yield penalty, (weight.detach().clone(), bias.detach().clone())

    def best_penalty(self, seed: int) -> float:
        """The penalty whose layers have the lowest mean loss over the categories on folds that they do not know."""
        fold = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(seed)) % FOLDS
        total = dict.fromkeys(PENALTIES, 0.0)
        for number in range(FOLDS):
            rest, own = self.on(fold != number), self.on(fold == number)
            for penalty, layer in rest.path():
                total[penalty] += float(own.losses(*layer).mean())
        return min(total, key=lambda penalty: total[penalty])


def _minimise(free: list[Tensor], objective: Callable[[], Tensor]) -> None:
    optimizer = torch.optim.LBFGS(free, max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
