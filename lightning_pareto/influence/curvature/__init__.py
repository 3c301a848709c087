"""Curvature approximations with one interface: solve (H + λI) x = b for D right-hand sides."""

from lightning_pareto.influence.curvature.base import Curvature, CurvatureError, IdentityCurvature
from lightning_pareto.influence.curvature.conjugate_gradients import ConjugateGradientCurvature
from lightning_pareto.influence.curvature.ekfac import Eigenvectors, EkfacCurvature
from lightning_pareto.influence.curvature.fisher import Fisher, FisherName
from lightning_pareto.influence.curvature.gauss_newton import GaussNewtonCurvature
from lightning_pareto.influence.passes import GradientPass
from lightning_pareto.influence.stages import Stages

__all__ = ["CurvatureError", "Fisher", "FisherName", "fit_curvature"]


def fit_curvature(
    name: str,
    train: GradientPass,
    *,
    damping: float,
    fisher: Fisher,
    tolerance: float = 1e-3,
    stages: Stages | None = None,
    eigenvectors: Eigenvectors | None = None,
) -> Curvature:
    """Fit the curvature called ``name`` to the samples of a pass, which must be in random order.

    An EK-FAC fit is saved in ``stages``, so that an interrupted computation can resume. It takes the eigenvectors of
    its factors from a function, by default those by ``torch.linalg.eigh``.
    """
    if name == "gauss_newton":
        return GaussNewtonCurvature.fit(train, damping, fisher)
    if name == "identity":
        return IdentityCurvature()
    stages = stages or Stages(None, "", train.shard)
    tensors = stages.load_or_compute(
        "curvature", lambda: EkfacCurvature.fit(train, damping, fisher, eigenvectors).to_tensors(), train.device
    )
    ekfac = EkfacCurvature.from_tensors(tensors, train.probe.layers, damping)
    if name == "ekfac":
        return ekfac
    return ConjugateGradientCurvature(train, fisher, ekfac, tolerance)
