"""Warnings point to the user's line and are given once."""

import warnings
from pathlib import Path

import pytest

from lightning_pareto import ParetoCallback
from lightning_pareto.display.warning import once, warn
from tests.integration._models import Data, Plain, trainer

HERE = Path(__file__).name


def test_warning_points_to_the_line_that_called_fit(tmp_path):
    class Augmented(Data):
        def train_dataloader(self):
            loader = super().train_dataloader()
            loader.collate_fn = lambda items: [part.clone() for part in reversed_order(items)]
            return loader

    def reversed_order(items):
        return default_collate(list(reversed(items)))

    from torch.utils.data import default_collate

    with pytest.warns(UserWarning, match="changes the order of the samples") as found:
        trainer(tmp_path, ParetoCallback(verbose=False), max_epochs=1).fit(Plain(), datamodule=Augmented())
    (reported,) = [each for each in found if "changes the order" in str(each.message)]
    assert Path(reported.filename).name == HERE
    assert "trainer(tmp_path" in Path(reported.filename).read_text().splitlines()[reported.lineno - 1]


def test_warnings_are_given_once():
    given = set()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(2):
            with once(given):
                warn("one")
        warn("one")
        warn("one")
    assert len(found) == 3, "once where it is asked for"
