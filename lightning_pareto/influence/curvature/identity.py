"""No curvature: influence as a dot product of gradients."""

from lightning_pareto.influence.curvature.base import Curvature, Directions


class IdentityCurvature(Curvature):
    """H + λI = I. Fast, and blind to the scale of the parameters; for comparison."""

    def solve(self, directions: Directions) -> Directions:
        """Return the directions as they are."""
        return directions
