"""Tests of the influence matrix and its file."""

import numpy as np
import pytest
import torch
from torch import nn

from lightning_pareto import InfluenceMatrix, SampleWeights, estimate_influence
from lightning_pareto.influence.categories import deal_folds
from lightning_pareto.storage.artifacts import ArtifactError, load_artifact, save_artifact
from tests._asserts import assert_near
from tests._oracles import loader


def test_saves_and_loads_every_field(tmp_path):
    matrix = InfluenceMatrix(
        torch.randn(6, 2),
        [0, 1, 0, 1, 0, 1],
        ["cat", "dog"],
        support=[3, 4],
        fold_scores=np.ones((2, 6, 2)),
        fold_support=[[1, 2], [2, 2]],
        metadata={"options": {"damping": 0.1}},
    )
    again = InfluenceMatrix.load(matrix.save(tmp_path / "deep" / "influence.safetensors"))
    for name in ("scores", "labels", "support", "fold_scores", "fold_support"):
        np.testing.assert_array_equal(getattr(again, name), getattr(matrix, name))
    assert (again.category_names, again.metadata) == (matrix.category_names, matrix.metadata)


def test_accepts_any_integer_type_and_nan_in_empty_folds():
    for labels in ([0, 1], np.array([0, 1], dtype=np.uint8), torch.tensor([0, 1], dtype=torch.int32)):
        assert InfluenceMatrix([[1.0], [2.0]], labels).labels.dtype == np.int64
    folds = [[[np.nan], [np.nan]], [[1.0], [2.0]]]
    matrix = InfluenceMatrix([[1.0], [2.0]], [0, 1], fold_scores=folds, fold_support=[[0], [3]])
    np.testing.assert_array_equal(matrix.fold_support, [[0], [3]])


def test_refuses_a_truncated_file(tmp_path):
    path = InfluenceMatrix([[1.0], [2.0]], [0, 0]).save(tmp_path / "influence.safetensors")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ArtifactError, match="not a valid safetensors file"):
        InfluenceMatrix.load(path)
    with pytest.raises(FileNotFoundError, match="no influence artifact"):
        InfluenceMatrix.load(tmp_path / "none")


def test_refuses_another_kind_and_a_newer_format(tmp_path, monkeypatch):
    path = SampleWeights([1.0]).save(tmp_path / "weights.safetensors")
    with pytest.raises(ArtifactError, match="holds 'weights', expected 'influence'"):
        InfluenceMatrix.load(path)
    monkeypatch.setattr("lightning_pareto.storage.artifacts.FORMAT_VERSION", 99)
    save_artifact(path, "weights", {}, {})
    monkeypatch.undo()
    with pytest.raises(ArtifactError, match="format version 99"):
        load_artifact(path, "weights")


def test_failed_write_leaves_only_the_old_file(tmp_path, monkeypatch):
    path = SampleWeights([1.0]).save(tmp_path / "weights.safetensors")

    def full(_descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        SampleWeights([2.0]).save(path)
    assert SampleWeights.load(path).values.tolist() == [1.0]
    assert list(tmp_path.iterdir()) == [path]


def test_of_folds_is_the_influence_on_samples_of_these_folds():
    """All folds give the original scores. Some folds give what an estimate on their samples alone gives."""
    torch.manual_seed(0)
    module = nn.Linear(3, 3)
    # 21 samples per class do not divide evenly into 4 folds
    train, val = (loader(torch.randn(63, 3), torch.arange(63) % 3) for _ in range(2))
    whole = estimate_influence(module, train, val, folds=4, curvature="identity", seed=5)
    assert_near(whole.of_folds(range(4)).scores, whole.scores, 1e-5)
    part = deal_folds(torch.arange(63) % 3, 4, seed=5) % 2 == 0
    x, y = (torch.stack([pair[i] for pair in val.dataset])[part] for i in (0, 1))
    alone = estimate_influence(module, train, loader(x, y), folds=1, curvature="identity")
    found = whole.of_folds([0, 2])
    assert_near(found.scores, alone.scores, 1e-5)
    np.testing.assert_array_equal(found.support, alone.support)
    with pytest.raises(ValueError, match="no folds"):
        alone.of_folds([0])


def test_total_weights_categories_by_their_samples():
    scores, labels = np.array([[1.0, -3.0], [2.0, 0.0]]), [0, 1]
    np.testing.assert_allclose(InfluenceMatrix(scores, labels, support=[30, 10]).total(), [0.0, 1.5])
    np.testing.assert_allclose(InfluenceMatrix(scores, labels).total(), [-1.0, 1.0])


def test_category_missing_from_all_chosen_folds_is_absent():
    folds, support = np.ones((3, 4, 2)), np.array([[5, 0], [5, 0], [5, 5]])
    whole = InfluenceMatrix(folds.mean(axis=0), np.zeros(4, int), fold_scores=folds, fold_support=support)
    assert whole.of_folds([0, 1]).present.tolist() == [True, False]
    assert whole.of_folds([0, 2]).present.tolist() == [True, True]
