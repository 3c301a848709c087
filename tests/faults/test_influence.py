"""An estimate that is ended at any stage resumes after the last finished one, with bit-identical numbers."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lightning_pareto import InfluenceMatrix, estimate_influence, reweight
from lightning_pareto.influence.curvature import ekfac
from tests._oracles import loader
from tests.faults._struck import HOWS, ended, strike, striking

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork"),
]

POINTS = ["factors", "eigendecomposition", "eigenvalues", "writing", "renaming", "category gradients", "scores"]
"""Where it is ended, in order: in a pass, or while the first finished stage is written or renamed."""


@pytest.fixture(scope="module")
def problem():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    data = loader(torch.randn(60, 5), torch.arange(60) % 3, batch_size=20)
    return module, data, estimate_influence(module, data, data, folds=3)


def struck(problem, folder, point, how):
    """A job for another process, which may patch its modules."""

    def progress(stage, done, _total):
        if stage == point and done == 1:
            strike(how)

    def job():
        module, data, _ = problem
        if point == "eigendecomposition":
            ekfac.eigenvectors_of = striking(how)
        if point == "writing":
            os.fsync = striking(how)
        if point == "renaming":
            Path.replace = striking(how)
        estimate_influence(module, data, data, folds=3, stages_dir=folder, progress=progress)

    return job


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("point", POINTS)
def test_estimate_resumes(problem, tmp_path, point, how):
    module, data, expected = problem
    folder, begun = tmp_path / "stages", []
    assert not ended(struck(problem, folder, point, how))
    found = estimate_influence(
        module, data, data, folds=3, stages_dir=folder, progress=lambda stage, *_: begun.append(stage)
    )
    np.testing.assert_array_equal(found.fold_scores, expected.fold_scores)
    assert ("factors" in begun) is (POINTS.index(point) <= POINTS.index("renaming"))
    assert not folder.exists(), "nor what a killed writer has left"


def test_full_disk_costs_only_the_stages(problem, tmp_path, monkeypatch):
    module, data, expected = problem
    monkeypatch.setattr("os.fsync", full)
    with pytest.warns(UserWarning, match=r"finished stages cannot be kept(.|\n)*No space left(.|\n)*Free some space"):
        found = estimate_influence(module, data, data, folds=3, stages_dir=tmp_path / "stages")
    np.testing.assert_array_equal(found.fold_scores, expected.fold_scores)


def test_unusable_folder_is_reported_before_any_long_work(problem, tmp_path):
    module, data, expected = problem
    (tmp_path / "file").touch()
    begun = []
    with pytest.warns(UserWarning, match="finished stages cannot be kept") as warned:
        found = estimate_influence(
            module,
            data,
            data,
            folds=3,
            stages_dir=tmp_path / "file" / "stages",
            progress=lambda stage, *_: begun.append((stage, len(warned))),
        )
    assert dict(reversed(begun))["factors"] > 0
    np.testing.assert_array_equal(found.fold_scores, expected.fold_scores)


def full(_descriptor):
    raise OSError(28, "No space left on device")


@pytest.mark.filterwarnings("ignore:the verdict is")
@pytest.mark.parametrize("save", ["influence", "weights"])
def test_full_disk_is_reported_and_leaves_nothing(problem, tmp_path, monkeypatch, save):
    made = problem[2] if save == "influence" else reweight(InfluenceMatrix(problem[2].scores, problem[2].labels))
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: nothing was written.*made\.safetensors"):
        made.save(tmp_path / "made.safetensors")
    assert not list(tmp_path.iterdir())
