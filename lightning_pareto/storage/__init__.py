"""Results on disk: one artifact format, and the folders that hold the artifacts of a run."""

from lightning_pareto.storage.artifacts import ArtifactError

__all__ = ["ArtifactError"]
