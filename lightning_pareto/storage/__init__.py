"""Results on disk: the artifact format, and the folders of runs and searches."""

from lightning_pareto.storage.artifacts import ArtifactError

__all__ = ["ArtifactError"]
