"""Equal weight for every class."""

from dataclasses import dataclass

import numpy as np
import torch

from lightning_pareto.arguments import checked_number
from lightning_pareto.candidates.evidence import Evidence, Proposed


@dataclass(frozen=True)
class ClassBalanced:
    """Another fit in which all classes have the same weight, or are nearer to it.

    Attributes:
        power: power of the inverse class frequency. 1 gives all classes the same weight, 0.5 is half way.
        least: it proposes nothing unless the largest class has this many times the samples of the smallest.

    Raises:
        ValueError: for options out of range.

    Example:
        >>> ClassBalanced(power=0.5)
        ClassBalanced(power=0.5, least=1.5)

        ``ParetoTuner(…, candidates=[ClassBalanced()])`` compares it with an ordinary fit.
    """

    power: float = 1.0
    least: float = 1.5

    def __post_init__(self) -> None:
        checked_number(self.power, "power must be > 0", lambda x: x > 0)
        checked_number(self.least, "least must be at least 1", lambda x: x >= 1)

    @property
    def name(self) -> str:
        """What it is called in results."""
        return "classes balanced" + f" by frequency^-{self.power:g}" * (self.power != 1)

    def propose(self, evidence: Evidence) -> Proposed:
        """See :meth:`Candidate.propose`."""
        _, own, counts = np.unique(evidence.influence.labels, return_inverse=True, return_counts=True)
        if counts.max() < self.least * counts.min():
            return {}
        return torch.from_numpy(counts[own].astype(np.float64) ** -self.power)
