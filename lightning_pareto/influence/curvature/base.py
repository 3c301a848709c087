"""The interface of a curvature approximation, and the case without curvature."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from lightning_pareto.influence.factors import DotProducts, EigenBasis
from lightning_pareto.influence.layers import Layer
from lightning_pareto.influence.low_rank import LowRankProducts

Directions = dict[Layer, Tensor]
"""D directions in the parameters of each covered layer, (D, R, O, I)."""

Products = dict[Layer, DotProducts | LowRankProducts]
"""D directions of each covered layer, laid out for dot products with per-sample gradients."""


class CurvatureError(ArithmeticError):
    """A curvature could not be computed or inverted."""


class Curvature(ABC):
    """A positive definite approximation H + λI of the curvature of the mean training loss."""

    @abstractmethod
    def solve(self, directions: Directions) -> Directions:
        """Apply (H + λI)⁻¹ to each of the D directions. The result has the same shapes."""

    def expected_bases(self) -> Mapping[Layer, EigenBasis]:
        """The bases in which :meth:`products` expects directions. For all other layers, they are plain gradients."""
        return {}

    def products(self, directions: Directions, truncation: float) -> Products:  # noqa: ARG002
        """Apply (H + λI)⁻¹ to each of the D directions, and lay out the results for dot products with gradients.

        Args:
            directions: (D, R, O, I) for every layer, in its basis. They are overwritten, and their memory is reused.
            truncation: share of the results' energy that may be cut off, see :meth:`EkfacCurvature.products`.
        """
        return {layer: DotProducts(direction) for layer, direction in self.solve(directions).items()}


class IdentityCurvature(Curvature):
    """H + λI = I, which gives plain dot products of gradients. Fast, but ignores the scale of the parameters."""

    def solve(self, directions: Directions) -> Directions:
        """Return copies of the directions."""
        return {layer: direction.clone() for layer, direction in directions.items()}
