"""Previews of the most suspected training samples, for the report."""

from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.integration.trainer.data_source import DataSource
from lightning_pareto.report.previews import SamplePreviews, previews_of
from lightning_pareto.report.samples import suspected_samples
from lightning_pareto.storage.run_folders import SAMPLES_FILE

MOST = 48


def save_previews(trainer: pl.Trainer, data: DataSource, influence: InfluenceMatrix, folder: Path) -> None:
    """Write previews of the most suspected samples to ``folder``, on rank zero.

    Each sample is read from the training dataset once more, without the loader. With a random augmentation this is one
    draw. If nothing can be shown, no file is left. Any failure becomes a warning.
    """
    path = folder / SAMPLES_FILE
    try:
        path.unlink(missing_ok=True)
        suspects = suspected_samples(influence, MOST)
        with isolate_rng():
            found, failed = previews_of(data.train(trainer).dataset, suspects.index[suspects.total < 0], data.preview)
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
