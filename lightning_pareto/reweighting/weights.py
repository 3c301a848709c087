"""Sample weights and what they are predicted to do."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lightning_pareto.data.labels import fingerprint_of_labels
from lightning_pareto.display.notebook import data_frame, html_table, numbers
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.storage.artifacts import consistent_parts, load_artifact, save_artifact

LARGEST_SUM = 2.0**52
"""Above it, draws could not be counted in float64."""


@dataclass(frozen=True, eq=False, repr=False)
class SampleWeights:
    """One weight per training sample.

    Args:
        values: (N,) weights ≥ 0, one for each dataset index; 1 leaves a sample as it is.
        predicted_gain: first-order drop of the validation measure on each category, (K,); NaN where unknown. It holds
            for a small step towards the weights, not for a whole fit.
        category_names: the K categories; numbers by default.
        metadata: how they were computed, JSON-serialisable.

    Raises:
        ValueError: if a weight is negative or not finite, or all are zero, or if there are not as many names as gains.

    Example:
        >>> weights = SampleWeights([1.0, 0.0, 2.0])
        >>> weights.effective_size
        1.8
    """

    values: npt.NDArray[np.float64]
    predicted_gain: npt.NDArray[np.float64] | None = None
    category_names: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        values = _vector(self.values)
        bad = ~np.isfinite(values) | (values < 0)
        if bad.any():
            raise ValueError(f"weights must be finite and ≥ 0, weight {np.argmax(bad)} is {values[np.argmax(bad)]}")
        if not values.any():
            raise ValueError("all weights are zero: there would be nothing to train on")
        if values.sum() > LARGEST_SUM:
            raise ValueError(f"the weights sum to {values.sum():.3g}, which no epoch can draw: scale them to mean 1")
        gain, names = _described(self.predicted_gain, self.category_names)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "predicted_gain", gain)
        object.__setattr__(self, "category_names", names)

    def __repr__(self) -> str:
        low, high = self.values.min(), self.values.max()
        return f"SampleWeights({len(self)} samples, {low:.2f} to {high:.2f}, {self.moved:.1%} of the mass moved)"

    def __len__(self) -> int:
        return len(self.values)

    def check_dataset(self, dataset: Any) -> None:
        """Refuse a dataset that these weights are not for, as far as that can be told without reading a sample.

        Args:
            dataset: of length N. Its labels are compared with those of the dataset that influence was computed on,
                where both are kept in one place (see :func:`lightning_pareto.data.labels.stored_labels`).

        Raises:
            ValueError: for another length, or other labels.
        """
        if len(dataset) != len(self):
            raise ValueError(
                f"{len(self)} weights for a training dataset of {len(dataset)} samples: weights belong to the dataset "
                "that influence was computed on, one for each index"
            )
        expected = self.metadata.get("fingerprints", {}).get("labels")
        if expected is not None and fingerprint_of_labels(dataset) not in (expected, None):
            raise ValueError(
                "these weights were made for another training dataset: its labels, or their order, are not those that "
                "influence was computed on. A random split in setup() needs a seeded generator: random_split(dataset, "
                "[0.8, 0.2], generator=torch.Generator().manual_seed(0)). If you have corrected labels, compute "
                "influence again, or say that you mean it: SampleWeights(weights.values)"
            )

    def _repr_html_(self) -> str:
        notes = [
            f"{len(self)} samples, {self.values.min():.2f} to {self.values.max():.2f}, {self.moved:.1%} of the mass "
            f"moved; effective size {self.effective_size:.0f}."
        ]
        assert self.predicted_gain is not None
        gains = {"category": self.category_names, "predicted gain": numbers(self.predicted_gain, "{:+.3g}")}
        return html_table("Sample weights", gains, notes)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` with the weight of each dataset index.

        Raises:
            ImportError: without pandas, with the command that installs it.
        """
        return data_frame({"weight": self.values}, range(len(self)), "index")

    def plot(self, labels: npt.ArrayLike, ax: Any = None) -> Any:
        """Draw the weights in every class of the training labels, see :func:`lightning_pareto.plot_weights`."""
        from lightning_pareto.report.figures import plot_weights

        return plot_weights(self, labels, ax=ax)

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
            {"category_names": list(self.category_names), "metadata": dict(self.metadata)},
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SampleWeights":
        """Read weights written by :meth:`save`.

        Raises:
            ArtifactError: if the file is not a whole weights artifact.
        """
        arrays, metadata = load_artifact(path, "weights")
        with consistent_parts(path):
            return cls(**arrays, category_names=tuple(metadata["category_names"]), metadata={**metadata["metadata"]})


def weights_from(influence: InfluenceMatrix, values: npt.NDArray[np.float64], **metadata: Any) -> SampleWeights:
    """Weights made from an influence matrix, with the gain it predicts and the fingerprints of its model and data."""
    fingerprints = influence.metadata.get("fingerprints")
    origin = {} if fingerprints is None else {"fingerprints": dict(fingerprints)}
    return SampleWeights(values, influence.predicted_gain(values), influence.category_names, {**metadata, **origin})


def _vector(values: Any) -> npt.NDArray[np.float64]:
    """Weights as a vector, (N,)."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    found = np.asarray(values)
    if not (np.issubdtype(found.dtype, np.number) or found.dtype == bool) or np.iscomplexobj(found):
        kind = found.dtype if isinstance(values, np.ndarray) else type(values).__name__
        raise ValueError(f"weights must be real numbers, found {kind}: weights = reweight(influence), or a vector (N,)")
    if found.ndim != 1 or not len(found):
        raise ValueError(f"weights must be a vector (N,), found shape {found.shape}")
    return found.astype(np.float64)


def _described(gain: npt.ArrayLike | None, names: Sequence[str]) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    """Gains and names of the same K categories: without gains they are unknown, without names numbered."""
    if isinstance(names, str):
        raise ValueError(f"category_names must be a sequence of names, found the single string {names!r}: [{names!r}]")
    names = tuple(map(str, names))
    if gain is None:
        return np.full(len(names), np.nan), names
    gain = np.asarray(gain, dtype=np.float64)
    if gain.ndim != 1:
        raise ValueError(f"predicted_gain must be a vector (K,), one for each category, found shape {gain.shape}")
    names = names or tuple(map(str, range(len(gain))))
    if len(names) != len(gain):
        raise ValueError(f"predicted_gain has {len(gain)} categories and category_names {len(names)}: {list(names)}")
    return gain, names
