"""Eigenvalue-corrected Kronecker-factored curvature (George et al. 2018, arXiv:1806.03884)."""

import math
from collections.abc import Collection

import torch
from torch import Tensor

from lightning_pareto.influence.curvature.base import Curvature, CurvatureError, Directions
from lightning_pareto.influence.curvature.fisher import Fisher
from lightning_pareto.influence.factors import EigenBasis, accurate, without_dust
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.passes import GradientPass


class EkfacCurvature(Curvature):
    """Per layer H = Q Λ Qᵀ, Q a Kronecker product of eigenbases and Λ the second moments of the gradients in it.

    By default the gradients are those of labels drawn from the model's prediction (the true Fisher information), one
    draw a sample. Layers are treated as independent, and so are the groups of a convolution.

    Do not read much into it where layers interact strongly; compare with ``curvature="gauss_newton"`` on a small model.

    Args:
        bases: eigenbasis of every layer.
        eigenvalues: corrected eigenvalues Λ, (R, O, I) for every layer.
        damping: λ as a share of each layer's mean eigenvalue.
    """

    def __init__(self, bases: dict[Layer, EigenBasis], eigenvalues: dict[Layer, Tensor], damping: float) -> None:
        self.bases = bases
        self.eigenvalues = eigenvalues
        self.damping = damping

    @classmethod
    def fit(cls, train: GradientPass, damping: float, fisher: Fisher) -> "EkfacCurvature":
        """Fit factors and corrected eigenvalues in two passes, each over as many samples as it wants.

        Args:
            train: the training pass, in random order.
            damping: λ as a share of each layer's mean eigenvalue.
            fisher: which Fisher information.

        Raises:
            CurvatureError: if a layer's factors are not finite or cannot be decomposed.
        """
        sums = _Factors.fit(train, fisher)
        counts = {layer: output for layer, output in sums.outputs.items() if output.ndim == 2}
        inputs = _decompose(train, sums.inputs)
        outputs = _decompose(train, {layer: m for layer, m in sums.outputs.items() if m.ndim == 3})
        bases = {layer: EigenBasis(vectors, outputs.get(layer)) for layer, vectors in inputs.items()}
        eigenvalues = _corrected_eigenvalues(train.part(0, ENOUGH), fisher, bases)
        bases = {layer: basis for layer, basis in bases.items() if layer in eigenvalues}
        by_frequency = {layer: _by_frequency(eigenvalues[layer], counts[layer]) for layer in counts if layer in bases}
        return cls(bases, eigenvalues | by_frequency, damping)

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], layers: list[Layer], damping: float) -> "EkfacCurvature":
        """Undo :meth:`to_tensors`, for layers of the same names."""
        bases, eigenvalues = {}, {}
        for layer in layers:
            if f"eigenvalues {layer.names[0]}" in tensors:
                inputs, outputs, values = (tensors.get(f"{part} {layer.names[0]}") for part in _PARTS)
                assert inputs is not None
                assert values is not None
                bases[layer], eigenvalues[layer] = EigenBasis(inputs, outputs), values
        return cls(bases, eigenvalues, damping)

    def to_tensors(self) -> dict[str, Tensor]:
        """All that was fitted, by name."""
        parts = {
            (part, layer): tensor
            for layer, basis in self.bases.items()
            for part, tensor in zip(_PARTS, (basis.inputs, basis.outputs, self.eigenvalues[layer]), strict=True)
        }
        return {f"{part} {layer.names[0]}": tensor for (part, layer), tensor in parts.items() if tensor is not None}

    def solve(self, directions: Directions) -> Directions:
        """See :class:`Curvature`; a layer without effect on the training set gets none."""
        alive = {layer for layer, values in self.eigenvalues.items() if float(values.max()) > 0}
        if not alive:
            raise CurvatureError(
                "the model's predictions do not change with any parameter on any training sample: it is saturated, so "
                "that its curvature is zero and influence is not defined. Use an earlier checkpoint"
            )
        return {layer: self._solve(layer, direction) for layer, direction in directions.items() if layer in alive}

    def _solve(self, layer: Layer, direction: Tensor) -> Tensor:
        basis, eigenvalues = self.bases[layer], self.eigenvalues[layer]
        return without_dust(basis.restore(basis.rotate(direction) / (eigenvalues + self.shift(layer))))

    def shift(self, layer: Layer) -> float:
        """λ of a layer."""
        return self.damping * float(self.eigenvalues[layer].cpu().double().mean())


_PARTS = "inputs", "outputs", "eigenvalues"

ENOUGH = 2_000
"""Random samples after which nothing is gained in the corrected eigenvalues, or in factors that are well determined.

On Fashion-MNIST (10,000 training images with 30 % wrong labels, small convolutional net) scores with eigenvalues of
2,000 samples had a rank correlation of 0.9995 with those from all of them and another draw of labels; two draws with
all of them 0.9997.
"""

WELL_DETERMINED = 50
"""Positions seen for each row of a layer's factors after which the factors of more samples are not needed.

A wide linear layer without positions (785 inputs) never has as many and takes what it gets: with factors of 10,000,
5,000 and 2,000 samples the rank correlation fell from 0.91 to 0.86 and 0.80, where two draws of labels agree to 0.93.
"""


class _Factors:
    """Running sums of a aᵀ and g gᵀ, of which only the diagonal where it is one-hot, over one or more passes."""

    @classmethod
    def fit(cls, train: GradientPass, fisher: Fisher) -> "_Factors":
        """Go over the first samples for all layers, and over as many more as the layers want, for those that do."""
        sums = cls(fisher)
        start, stop = 0, min(ENOUGH, train.size)
        while start < stop:
            sums.add(train.part(start, stop), omit=sums.well_determined())
            start, stop = stop, min(sums.wanted(stop), train.size)
        return sums

    def __init__(self, fisher: Fisher) -> None:
        self.inputs: dict[Layer, Tensor] = {}
        self.outputs: dict[Layer, Tensor] = {}
        self._positions: dict[Layer, Tensor] = {}
        self._fisher = fisher

    def add(self, train: GradientPass, omit: Collection[Layer] = ()) -> None:
        """Add a pass over the samples, for all layers but some."""
        found = train.completed("factor pass", lambda: self._sums(train, omit))
        inputs, outputs, positions = found
        totals = train.total(inputs), train.total(outputs), train.total(positions, torch.float32)
        for mine, total in zip((self.inputs, self.outputs, self._positions), totals, strict=True):
            for layer, value in total.items():
                mine[layer] = mine[layer] + value if layer in mine else value

    def _sums(self, train: GradientPass, omit: Collection[Layer]) -> tuple[dict[Layer, Tensor], ...]:
        sums: tuple[dict[Layer, Tensor], ...] = {}, {}, {}
        for indices, _, forward in train("factors"):
            signals = forward.logits.shape[1] if self._fisher.name == "exact" else 1
            for signal in self._fisher.signals(forward, indices):
                for layer, _, factors in forward.backward(signal, omit):
                    count = torch.tensor([float(factors.positions) / signals])
                    for total, value in zip(sums, (*factors.covariances(), count), strict=True):
                        if value is not None:
                            total[layer] = total[layer] + value if layer in total else value
        return sums

    def well_determined(self) -> set[Layer]:
        """Layers that want no more samples."""
        return {layer for layer in self._positions if self._share(layer) >= 1}

    def wanted(self, seen: int) -> int:
        """How many samples one more layer wants, after so many of them; as many if none does."""
        wanted = [math.ceil(seen / self._share(x)) for x in self._positions if 0 < self._share(x) < 1]
        return max(min(wanted), seen + ENOUGH // 4) if wanted else seen

    def _share(self, layer: Layer) -> float:
        """Positions seen, of those that determine the layer's factors well."""
        return float(self._positions[layer]) / (WELL_DETERMINED * max(m[layer].shape[-1] for m in self._sides(layer)))

    def _sides(self, layer: Layer) -> list[dict[Layer, Tensor]]:
        return [side for side in (self.inputs, self.outputs) if layer in side]


def _corrected_eigenvalues(train: GradientPass, fisher: Fisher, bases: dict[Layer, EigenBasis]) -> dict[Layer, Tensor]:
    def squares() -> dict[Layer, Tensor]:
        sums: dict[Layer, Tensor] = {}
        for indices, _, forward in train("eigenvalues"):
            for signal in fisher.signals(forward, indices):
                for layer, _, factors in forward.backward(signal):
                    value = factors.squares(bases[layer])
                    sums[layer] = sums[layer] + value if layer in sums else value
        return sums

    sums = train.completed("eigenvalue pass", squares)
    return {layer: total / train.size for layer, total in train.total(sums).items()}


def _by_frequency(eigenvalues: Tensor, counts: Tensor) -> Tensor:
    """Spread the eigenvalues of an embedding, (1, V, I), over its rows by how often they occur, (1, V).

    A part of the samples does not hold every row: one that it misses would have no curvature and far too much
    influence. Half an occurrence is added to each row.
    """
    share = (counts + 0.5) / (counts + 0.5).sum()
    return share[:, :, None] * eigenvalues.sum(dim=1, keepdim=True)


def _decompose(train: GradientPass, matrices: dict[Layer, Tensor]) -> dict[Layer, Tensor]:
    """Eigenvectors of every layer's matrices, (R, n, n); the layers are dealt out to the processes."""
    order = sorted(matrices, key=lambda layer: -matrices[layer].shape[-1])
    with train.shard.agreement("eigendecomposition"):
        mine = {layer: _eigenvectors(layer, matrices[layer]) for layer in train.shard.deal(order)}
    return train.total(mine)


def _eigenvectors(layer: Layer, matrices: Tensor) -> Tensor:
    """Eigenvectors of symmetric matrices, (R, n, n)."""
    if not torch.isfinite(matrices).all():
        raise CurvatureError(
            f"the curvature factors of layer {layer.name!r} are not finite: look for NaN or overflow in its inputs"
        )
    if matrices.shape[-1] == 1:
        return torch.ones_like(matrices)
    try:
        vectors: Tensor = torch.linalg.eigh(accurate(matrices))[1].to(matrices).contiguous()  # as from disk
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise CurvatureError(f"the eigendecomposition of layer {layer.name!r} did not converge: {error}") from error
    return without_dust(vectors)
