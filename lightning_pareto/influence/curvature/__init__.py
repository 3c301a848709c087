"""Curvature approximations behind one interface: solve (H + λI) x = b for D right-hand sides."""

from lightning_pareto.influence.curvature.base import Curvature, CurvatureError, Directions
from lightning_pareto.influence.curvature.conjugate_gradients import ConjugateGradientCurvature
from lightning_pareto.influence.curvature.ekfac import EkfacCurvature
from lightning_pareto.influence.curvature.fisher import Fisher, FisherName
from lightning_pareto.influence.curvature.gauss_newton import GaussNewtonCurvature
from lightning_pareto.influence.curvature.identity import IdentityCurvature
from lightning_pareto.influence.passes import GradientPass

__all__ = ["Curvature", "CurvatureError", "Directions", "Fisher", "FisherName", "fit_curvature"]


ITERATIONS = 100
"""Most conjugate gradient iterations."""


def fit_curvature(name: str, train: GradientPass, damping: float, fisher: Fisher, tolerance: float) -> Curvature:
    """Fit the curvature called ``name`` on the training set.

    Args:
        name: ``"ekfac"``, ``"cg"``, ``"gauss_newton"`` or ``"identity"``.
        train: the samples to fit it to, in random order.
        damping: λ as a share of each layer's mean eigenvalue.
        fisher: which Fisher information.
        tolerance: relative residual at which conjugate gradients stop.

    Raises:
        ValueError: for an unknown name.
        CurvatureError: if it cannot be computed.
    """
    if name == "ekfac":
        return EkfacCurvature.fit(train, damping, fisher)
    if name == "cg":
        preconditioner = EkfacCurvature.fit(train, damping, fisher)
        return ConjugateGradientCurvature(train, fisher, preconditioner, tolerance, ITERATIONS)
    if name == "gauss_newton":
        return GaussNewtonCurvature.fit(train, damping)
    if name == "identity":
        return IdentityCurvature()
    raise ValueError(f"curvature must be 'ekfac', 'cg', 'gauss_newton' or 'identity', found {name!r}")
