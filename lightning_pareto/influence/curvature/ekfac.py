"""Eigenvalue-corrected Kronecker-factored curvature (George et al. 2018, arXiv:1806.03884)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_pareto.influence.curvature.base import Curvature, CurvatureError, Directions, Products
from lightning_pareto.influence.curvature.fisher import Fisher
from lightning_pareto.influence.factors import DotProducts, EigenBasis, flush_tiny, to_float64
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.low_rank import LowRankProducts, truncate
from lightning_pareto.influence.passes import GradientPass

Eigenvectors = Callable[[Layer, Tensor], Tensor]
"""Eigenvectors of a layer's symmetric matrices, (R, n, n)."""


@dataclass(frozen=True)
class EkfacCurvature(Curvature):
    """H = Q Λ Qᵀ per layer, with Q a Kronecker product of eigenbases and Λ the second moments of the gradients in Q.

    By default the labels of these gradients are drawn from the model's prediction, one per sample, which gives the true
    Fisher information. Layers are treated as independent, and so are the groups of a convolution.

    Do not rely on it where layers interact strongly. Compare with ``curvature="gauss_newton"`` on a small model.

    Attributes:
        bases: eigenbasis of every layer.
        eigenvalues: corrected eigenvalues Λ, (R, O, I) for every layer.
        damping: λ as a share of each layer's mean eigenvalue.
    """

    bases: dict[Layer, EigenBasis]
    eigenvalues: dict[Layer, Tensor]
    damping: float

    @classmethod
    def fit(
        cls, train: GradientPass, damping: float, fisher: Fisher, eigenvectors: Eigenvectors | None = None
    ) -> "EkfacCurvature":
        """Fit the factors and then the corrected eigenvalues, each on as many samples as needed."""
        sums, eigenvectors = _FactorSums.fit(train, fisher), eigenvectors or eigenvectors_of
        inputs = _decompose(train, sums.inputs, eigenvectors)
        symmetric = {layer: m for layer, m in sums.outputs.items() if m.ndim == 3}
        outputs = _decompose(train, symmetric, eigenvectors)
        bases = {layer: EigenBasis(vectors, outputs.get(layer)) for layer, vectors in inputs.items()}
        eigenvalues = _corrected_eigenvalues(train.part(0, ENOUGH_SAMPLES), fisher, bases)
        for layer, values in eigenvalues.items():
            if layer not in outputs:
                eigenvalues[layer] = _spread_by_frequency(values, counts=sums.outputs[layer])
        return cls(bases, eigenvalues, damping)

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], layers: list[Layer], damping: float) -> "EkfacCurvature":
        """Undo :meth:`to_tensors`, for layers of the same names."""
        bases, eigenvalues = {}, {}
        for layer, name in ((layer, layer.names[0]) for layer in layers):
            if f"eigenvalues {name}" in tensors:
                bases[layer] = EigenBasis(tensors[f"inputs {name}"], tensors.get(f"outputs {name}"))
                eigenvalues[layer] = tensors[f"eigenvalues {name}"]
        return cls(bases, eigenvalues, damping)

    def to_tensors(self) -> dict[str, Tensor]:
        """The fitted tensors by name."""
        tensors: dict[str, Tensor | None] = {}
        for layer, eigenvalues in self.eigenvalues.items():
            basis, name = self.bases[layer], layer.names[0]
            tensors |= {f"inputs {name}": basis.inputs, f"outputs {name}": basis.outputs}
            tensors[f"eigenvalues {name}"] = eigenvalues
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def solve(self, directions: Directions) -> Directions:
        """See :class:`Curvature`; leaves out layers that have no effect on the training set."""
        effective = set(self._effective())
        return {layer: self._solve(layer, direction) for layer, direction in directions.items() if layer in effective}

    def _solve(self, layer: Layer, direction: Tensor) -> Tensor:
        basis, eigenvalues = self.bases[layer], self.eigenvalues[layer]
        return flush_tiny(basis.restore(basis.rotate(direction) / (eigenvalues + self.shift(layer))))

    def expected_bases(self) -> dict[Layer, EigenBasis]:
        """See :class:`Curvature`."""
        return self.bases

    def products(self, directions: Directions, truncation: float) -> Products:
        """See :class:`Curvature`; leaves out layers that have no effect on the training set.

        The energy of a direction is its mean squared product with training gradients: the sum of its squares in the
        eigenbasis, times the eigenvalues. Here these are replaced by the products of their means over rows and columns.
        The matrices of large layers, scaled to unit metric, are truncated where that saves memory. Half of what may be
        cut off is shared by the layers in proportion to their energy, the other half evenly.
        """
        solved, found = Directions(), Products()
        for layer in self._effective():
            if layer in directions:
                scale, shifted = _outer(*self._metric(layer)), self.eigenvalues[layer] + self.shift(layer)
                solved[layer] = directions.pop(layer).mul_(scale / shifted)
        energies = {layer: torch.linalg.vector_norm(x, dim=(1, 2, 3)) ** 2 for layer, x in solved.items()}
        if not solved:
            return found
        mean = torch.stack([*energies.values()]).mean(dim=0)
        for layer in list(solved):
            allowed = truncation / 2 * (energies[layer] + mean)
            found[layer] = self._product(layer, solved.pop(layer), energies[layer], allowed)
        return found

    def _product(self, layer: Layer, x: Tensor, energy: Tensor, allowed: Tensor) -> DotProducts | LowRankProducts:
        """Products with directions, from those of unit metric, (D, R, O, I), their energy and what may be cut off."""
        basis, (rows, columns) = self.bases[layer], self._metric(layer)
        large = x.shape[1] == 1 and x[0].numel() >= LARGE
        if large and bool((allowed > 0).any()) and bool(torch.isfinite(energy).all()):
            truncated = truncate(x[:, 0], energy, allowed)
            if truncated is not None:
                left, right = truncated[0] / rows[0, :, None], basis.inputs[0] @ (truncated[1] / columns[0, :, None])
                left = left if basis.outputs is None else basis.outputs[0] @ left
                return LowRankProducts(flush_tiny(left), flush_tiny(right))
        return DotProducts(flush_tiny(basis.restore(x.div_(_outer(rows, columns)))))

    def _effective(self) -> list[Layer]:
        effective = [layer for layer, values in self.eigenvalues.items() if float(values.max()) > 0]
        if not effective:
            raise CurvatureError(
                "the model is saturated: no parameter changes its predictions on any training sample, so the curvature "
                "is zero and influence is undefined. Use an earlier checkpoint"
            )
        return effective

    def _metric(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """Square roots of the mean eigenvalues of rows, (R, O), and of columns relative to all, (R, I)."""
        values = self.eigenvalues[layer]
        mean = values.mean(dim=(1, 2), keepdim=True)[:, 0].clamp_min(torch.finfo(values.dtype).tiny)
        rows, columns = (values.mean(dim=axis) / mean for axis in (2, 1))
        return (rows.clamp_min(FLOOR) * mean).sqrt(), columns.clamp_min(FLOOR).sqrt()

    def shift(self, layer: Layer) -> float:
        """λ of a layer."""
        return self.damping * float(self.eigenvalues[layer].cpu().double().mean())


LARGE = 10_000
"""Number of parameters from which a layer's directions are truncated. Below, they cost next to nothing."""

FLOOR = 1e-3
"""Least mean eigenvalue of a row or column in the metric of truncation, relative to the layer's mean."""

ENOUGH_SAMPLES = 1_000
"""How many random samples suffice for the corrected eigenvalues, and for factors that are well determined.

Measured on Fashion-MNIST (6,000 training images with 30 % wrong labels): the scores have a rank correlation of 0.9986
with those from 2,000 samples for a small convolutional net, and of 0.988 for an MLP. Another draw of the Fisher labels
changes more, 0.996 and 0.935. From 500 samples it is 0.996 and 0.970.
"""

POSITIONS_PER_ROW = 50
"""How many positions each row of a layer's factors must see for the factors to be well determined.

A wide linear layer without positions (785 inputs) never sees that many, so it uses all samples. With factors from
10,000, 5,000 and 2,000 samples the rank correlation fell from 0.91 to 0.86 and 0.80. Two draws of labels agree to 0.93.
"""


@dataclass(frozen=True)
class _FactorSums:
    """Running sums of a aᵀ and g gᵀ over one or more passes. For one-hot outputs only the diagonal of g gᵀ is kept."""

    inputs: dict[Layer, Tensor] = field(default_factory=dict)
    outputs: dict[Layer, Tensor] = field(default_factory=dict)
    positions: dict[Layer, Tensor] = field(default_factory=dict)

    @classmethod
    def fit(cls, train: GradientPass, fisher: Fisher) -> "_FactorSums":
        """Sum over the first samples for all layers, then over more samples for layers not yet well determined."""
        sums = cls()
        start, stop = 0, min(ENOUGH_SAMPLES, train.size)
        while start < stop:
            sums._add_pass(train.part(start, stop), fisher)
            start, stop = stop, min(sums._samples_needed(stop), train.size)
        return sums

    def _add_pass(self, train: GradientPass, fisher: Fisher) -> None:
        enough = {layer for layer in self.positions if self._share(layer) >= 1}

        def work() -> _FactorSums:
            sums = _FactorSums()
            for indices, _, forward in train("factors"):
                signals = forward.logits.shape[1] if fisher.name == "exact" else 1
                for signal in fisher.signals(forward, indices):
                    for layer, _, factors in forward.backward(signal, omit=enough):
                        inputs, outputs = factors.covariances()
                        sums._add(layer, inputs, outputs, inputs.new_tensor(factors.positions / signals))
            return sums

        sums = train.run("factor pass", work)
        inputs, outputs, positions = map(train.all_reduce, (sums.inputs, sums.outputs, sums.positions))
        for layer in inputs:
            self._add(layer, inputs[layer], outputs[layer], positions[layer])

    def _add(self, layer: Layer, *values: Tensor) -> None:
        for total, value in zip((self.inputs, self.outputs, self.positions), values, strict=True):
            total[layer] = total[layer].add_(value) if layer in total else value

    def _samples_needed(self, seen: int) -> int:
        """How many samples the next layer needs in total, after ``seen`` samples; ``seen`` if none needs more."""
        needed = [math.ceil(seen / share) for share in map(self._share, self.positions) if 0 < share < 1]
        return max(min(needed), seen + ENOUGH_SAMPLES // 4) if needed else seen

    def _share(self, layer: Layer) -> float:
        """Positions seen, relative to the number at which the layer's factors are well determined."""
        rows = max(self.inputs[layer].shape[-1], self.outputs[layer].shape[-1])
        return float(self.positions[layer]) / (POSITIONS_PER_ROW * rows)


def _outer(rows: Tensor, columns: Tensor) -> Tensor:
    """(R, O, I) from (R, O) and (R, I)."""
    return rows[:, :, None] * columns[:, None, :]


def _corrected_eigenvalues(train: GradientPass, fisher: Fisher, bases: dict[Layer, EigenBasis]) -> dict[Layer, Tensor]:
    def squares() -> dict[Layer, Tensor]:
        sums: dict[Layer, Tensor] = {}
        for indices, _, forward in train("eigenvalues"):
            for signal in fisher.signals(forward, indices):
                for layer, _, factors in forward.backward(signal):
                    value = factors.squares(bases[layer])
                    sums[layer] = sums[layer] + value if layer in sums else value
        return sums

    sums = train.run("eigenvalue pass", squares)
    return {layer: total / train.size for layer, total in train.all_reduce(sums).items()}


def _spread_by_frequency(eigenvalues: Tensor, counts: Tensor) -> Tensor:
    """Spread the eigenvalues of an embedding, (1, V, I), over its rows in proportion to their counts, (1, V).

    The samples used here may miss some rows. Such a row would have no curvature and far too much influence. So each
    count is raised by half an occurrence.
    """
    share = (counts + 0.5) / (counts + 0.5).sum()
    return share[:, :, None] * eigenvalues.sum(dim=1, keepdim=True)


def _decompose(train: GradientPass, matrices: dict[Layer, Tensor], eigenvectors: Eigenvectors) -> dict[Layer, Tensor]:
    """Eigenvectors of every layer's matrices, (R, n, n). The processes share the layers among them."""
    order = sorted(matrices, key=lambda layer: -matrices[layer].shape[-1])
    with train.shard.agreement("eigendecomposition"):
        mine = {layer: eigenvectors(layer, matrices[layer]) for layer in train.shard.deal(order)}
    return train.all_reduce(mine)


def eigenvectors_of(layer: Layer, matrices: Tensor) -> Tensor:
    """Eigenvectors of symmetric matrices, (R, n, n)."""
    if not torch.isfinite(matrices).all():
        raise CurvatureError(
            f"the curvature factors of layer {layer.name!r} are not finite: look for NaN or overflow in its inputs"
        )
    if matrices.shape[-1] == 1:
        return torch.ones_like(matrices)
    try:
        vectors: Tensor = torch.linalg.eigh(to_float64(matrices))[1].to(matrices)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise CurvatureError(f"the eigendecomposition of layer {layer.name!r} did not converge: {error}") from error
    return flush_tiny(vectors.contiguous())  # the memory layout of tensors loaded from disk, for the same rounding
