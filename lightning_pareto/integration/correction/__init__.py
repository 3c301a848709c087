"""Course correction: an epoch after which classes fell is rerun with sample weights."""

from lightning_pareto.integration.correction.callback import CourseCorrection
from lightning_pareto.integration.correction.record import Correction

__all__ = ["Correction", "CourseCorrection"]
