"""No curvature: influence as plain dot products of gradients."""

from lightning_pareto.influence.curvature.base import Curvature, Directions


class IdentityCurvature(Curvature):
    """H + λI = I. Fast, but ignores the scale of the parameters. Useful for comparison."""

    def solve(self, directions: Directions) -> Directions:
        """Return the directions unchanged."""
        return directions
