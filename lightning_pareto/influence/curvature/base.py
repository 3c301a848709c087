"""The interface of a curvature approximation, and the case without curvature."""

from abc import ABC, abstractmethod

from torch import Tensor

from lightning_pareto.influence.layers import Layer

Directions = dict[Layer, Tensor]
"""D directions in the parameters of each covered layer, (D, R, O, I)."""


class CurvatureError(ArithmeticError):
    """A curvature could not be computed or inverted."""


class Curvature(ABC):
    """A positive definite approximation H + λI of the curvature of the mean training loss."""

    @abstractmethod
    def solve(self, directions: Directions) -> Directions:
        """Apply (H + λI)⁻¹ to each of the D directions. The result has the same shapes."""


class IdentityCurvature(Curvature):
    """H + λI = I, which gives plain dot products of gradients. Fast, but ignores the scale of the parameters."""

    def solve(self, directions: Directions) -> Directions:
        """Return the directions unchanged."""
        return directions
