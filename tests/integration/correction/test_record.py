"""What a CourseCorrection did: printed, logged, and written to disk."""

import csv

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger

from lightning_pareto import Correction, SampleWeights
from lightning_pareto.integration.correction.record import Record, publish
from lightning_pareto.integration.output.results_folder import ResultsFolder
from lightning_pareto.storage.run_folders import RECORD_FILE
from tests.integration._models import trainer

NAMES = tuple(f"a class with a rather long name, {k} of a dozen" for k in range(12))


@pytest.mark.parametrize("again", [(), tuple([0.1] * 12)])
def test_a_long_correction_is_printed_in_lines(tmp_path, capsys, again):
    done = Correction(4, NAMES[:5], NAMES, (0.9,) * 12, (0.2,) * 12, again, False)
    place = ResultsFolder((RECORD_FILE,), tmp_path, None, resumed=False)
    publish(trainer(tmp_path), Record(), done, SampleWeights(np.ones(3)), place, verbose=True)
    text = capsys.readouterr().out
    assert text.strip().startswith("CourseCorrection: epoch 4 was rerun because")
    assert max(map(len, text.splitlines())) <= 80


def test_published_corrections_are_logged_and_read_back(tmp_path, capsys):
    logger = CSVLogger(tmp_path, name="csv")
    fit = trainer(tmp_path, logger=logger)
    place, record = ResultsFolder((RECORD_FILE,), tmp_path, None, resumed=False), Record()
    first = Correction(3, ("a",), ("a", "b"), (1.0, np.nan), (0.5, np.nan), (0.75, np.nan), True)
    second = Correction(5, ("a",), ("a", "b"), (1.0, np.nan), (0.5, np.nan), (), False)
    for done in (first, second):
        publish(fit, record, done, SampleWeights([1.0, done.epoch]), place, verbose=False)
    assert capsys.readouterr().out == ""
    assert record.corrections == (first, second)
    assert fit.callback_metrics["pareto/correction/gain/a"] == 0.0, "a rerun that did not end gains nothing"
    logger.save()
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["pareto/correction/accepted"]) in (0.0, 1.0)
    assert "pareto/correction/gain/b" not in rows[0], "nothing is known of it"
    folder = tmp_path / "pareto"
    assert {path.name for path in folder.iterdir()} == {
        RECORD_FILE,
        "correction_3.safetensors",
        "correction_5.safetensors",
    }
    assert SampleWeights.load(folder / "correction_5.safetensors").values.tolist() == [1.0, 5.0]
    record._fit = -1  # as if another process had made them
    assert str(record.corrections) == str((first, second))
