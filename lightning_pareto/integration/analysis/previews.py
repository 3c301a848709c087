"""Previews of the most suspected training samples, for the report."""

from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as pl
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_pareto.data.loaders import read_batches
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.integration.trainer.data_source import DataSource
from lightning_pareto.integration.trainer.processes import rank_zero_warn
from lightning_pareto.report.previews import SamplePreviews, previews_of
from lightning_pareto.report.samples import suspected_samples
from lightning_pareto.storage.run_folders import SAMPLES_FILE

MOST = 48

T = TypeVar("T")


def save_previews(trainer: pl.Trainer, data: DataSource, influence: InfluenceMatrix, folder: Path) -> None:
    """Write previews of the most suspected samples to ``folder``, on rank zero.

    Each sample is read from the training dataset once more, in the loader's workers if it has any. With a random
    augmentation this is one draw. If nothing can be shown, no file is left. Any failure becomes a warning.
    """
    path = folder / SAMPLES_FILE
    try:
        path.unlink(missing_ok=True)
        suspects = suspected_samples(influence, MOST)
        loader, indices = data.train(trainer), suspects.index[suspects.quality < 0].tolist()
        with isolate_rng():
            samples: Any = loader.dataset
            if loader.num_workers:
                alone = [[index] for index in indices]
                samples = dict(zip(indices, read_batches(loader, alone, collate=_only), strict=True))
            found, failed = previews_of(samples, indices, data.preview)
        own = data.categories is not None
        names = tuple(map(str, data.class_names or ())) if own else influence.category_names
        if found:
            SamplePreviews(found, names).save(path)
        if failed:
            index, error = next(iter(failed.items()))
            rank_zero_warn(
                f"no preview of {len(failed)} suspected samples for the report. Sample {index}: "
                f"{type(error).__name__}: {error}"
            )
    except Exception as error:  # the results themselves are safe by now
        rank_zero_warn(f"no previews of the suspected samples for the report: {type(error).__name__}: {error}")


def _only(samples: list[T]) -> T:
    (sample,) = samples
    return sample
