"""Curvature approximations behind one interface: solve (H + λI) x = b for D right-hand sides."""

from lightning_pareto.influence.curvature.base import Curvature, CurvatureError, Directions
from lightning_pareto.influence.curvature.ekfac import EkfacCurvature
from lightning_pareto.influence.curvature.fisher import Fisher, FisherName
from lightning_pareto.influence.curvature.gauss_newton import GaussNewtonCurvature
from lightning_pareto.influence.curvature.identity import IdentityCurvature
from lightning_pareto.influence.passes import GradientPass

__all__ = ["Curvature", "CurvatureError", "Directions", "Fisher", "FisherName", "fit_curvature"]


def fit_curvature(name: str, train: GradientPass, damping: float, fisher: Fisher) -> Curvature:
    """Fit the curvature called ``name`` on the training set.

    Raises:
        ValueError: for an unknown name.
        CurvatureError: if it cannot be computed.
    """
    if name == "ekfac":
        return EkfacCurvature.fit(train, damping, fisher)
    if name == "gauss_newton":
        return GaussNewtonCurvature.fit(train, damping)
    if name == "identity":
        return IdentityCurvature()
    raise ValueError(f"curvature must be 'ekfac', 'gauss_newton' or 'identity', found {name!r}")
