"""Sample weights and what they are predicted to do."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_pareto.artifacts import load_artifact, save_artifact


@dataclass(frozen=True, eq=False, repr=False)
class SampleWeights:
    """One weight per training sample.

    Args:
        values: (N,) weights ≥ 0, one for each dataset index; 1 leaves a sample as it is.
        predicted_gain: first-order drop of the validation measure on each category, (K,); NaN where unknown. It holds
            for a small step towards the weights, not for a whole fit.
        class_names: the K categories.
        metadata: how they were computed, JSON-serialisable.

    Raises:
        ValueError: if a weight is negative or not finite, or all are zero.

    Example:
        >>> weights = SampleWeights([1.0, 0.0, 2.0])
        >>> weights.effective_size
        1.8
    """

    values: npt.NDArray[np.float64]
    predicted_gain: npt.NDArray[np.float64] | None = None
    class_names: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        values = np.asarray(self.values, dtype=np.float64)
        if values.ndim != 1 or not len(values):
            raise ValueError(f"weights must be a vector (N,), found shape {values.shape}")
        bad = ~np.isfinite(values) | (values < 0)
        if bad.any():
            raise ValueError(f"weights must be finite and ≥ 0, weight {np.argmax(bad)} is {values[np.argmax(bad)]}")
        if not values.any():
            raise ValueError("all weights are zero: there would be nothing to train on")
        gain = np.full(len(self.class_names), np.nan) if self.predicted_gain is None else self.predicted_gain
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "predicted_gain", np.asarray(gain, dtype=np.float64))
        object.__setattr__(self, "class_names", tuple(self.class_names))

    def __repr__(self) -> str:
        low, high = self.values.min(), self.values.max()
        return f"SampleWeights({len(self)} samples, {low:.2f} to {high:.2f}, {self.moved:.1%} of the mass moved)"

    def __len__(self) -> int:
        return len(self.values)

    @property
    def effective_size(self) -> float:
        """Kish's effective sample size (Σw)² / Σw²."""
        return float(self.values.sum() ** 2 / (self.values**2).sum())

    @property
    def moved(self) -> float:
        """Share of the training mass that was taken from samples."""
        return float(np.maximum(1 - self.values, 0).mean())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the weights to ``path`` (safetensors), whole or not at all."""
        assert self.predicted_gain is not None
        return save_artifact(
            path,
            "weights",
            {"values": self.values, "predicted_gain": self.predicted_gain},
            {"class_names": list(self.class_names), "metadata": dict(self.metadata)},
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SampleWeights":
        """Read weights written by :meth:`save`.

        Raises:
            ArtifactError: if the file is not a whole weights artifact.
        """
        arrays, metadata = load_artifact(path, "weights")
        return cls(**arrays, class_names=tuple(metadata["class_names"]), metadata=metadata["metadata"])
