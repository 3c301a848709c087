"""An interrupted computation goes on after its last finished stage."""

import numpy as np
import pytest
import torch
from torch import nn

from lightning_pareto import Shard, estimate_influence
from lightning_pareto.artifacts import ArtifactError
from lightning_pareto.influence.fingerprint import fingerprint_of_data, fingerprint_of_model
from lightning_pareto.influence.stages import Stages, StagesError
from tests._asserts import assert_near
from tests._oracles import loader
from tests._tolerances import RELATIVE


@pytest.fixture
def problem():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3))
    return module, loader(torch.randint(9, (40, 3)), torch.arange(40) % 3)


def interrupted_at(stage, module, data, **options):
    """Stages that were begun until one of them was interrupted."""
    begun = []

    def progress(name, done, _total):
        begun.append(name)
        if name == stage and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimate_influence(module, data, data, progress=progress, **options)
    return begun


@pytest.mark.parametrize("curvature", ["ekfac", "cg"])
@pytest.mark.parametrize(
    ("stage", "again"),
    [("factors", True), ("eigenvalues", True), ("category gradients", False), ("scores", False)],
)
def test_goes_on_after_the_last_finished_stage(problem, tmp_path, curvature, stage, again):
    module, data = problem
    options = {"curvature": curvature, "stages_dir": tmp_path / "stages", "folds": 3}
    interrupted_at(stage, module, data, **options)
    begun = []
    found = estimate_influence(module, data, data, progress=lambda name, *_: begun.append(name), **options)
    assert ("factors" in begun) is again
    expected = estimate_influence(module, data, data, curvature=curvature, folds=3)
    np.testing.assert_array_equal(found.fold_scores, expected.fold_scores)
    assert found.metadata == expected.metadata
    assert not (tmp_path / "stages").exists()


def test_finished_blocks_of_scores_are_not_computed_again(problem, tmp_path):
    module, data = problem
    options = {"stages_dir": tmp_path / "stages", "folds": 3, "max_memory": 16 * 75 * 3 / 2**30}
    passes = []

    def progress(name, done, _total):
        passes.append((name, done))
        if passes.count(("scores", 1)) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimate_influence(module, data, data, progress=progress, **options)
    passes.clear()
    found = estimate_influence(module, data, data, progress=lambda n, d, _: passes.append((n, d)), **options)
    assert passes.count(("scores", 0)) == 2  # of three
    assert_near(found.scores, estimate_influence(module, data, data, folds=3).scores, RELATIVE[torch.float32])


def test_refuses_the_stages_of_another_computation(problem, tmp_path):
    module, data = problem
    interrupted_at("scores", module, data, stages_dir=tmp_path)
    with pytest.raises(StagesError, match="the data or the options have changed"):
        estimate_influence(module, data, data, stages_dir=tmp_path, damping=0.2)
    with torch.no_grad():
        module[2].bias += 1
    with pytest.raises(StagesError, match="the model, the data"):
        estimate_influence(module, data, data, stages_dir=tmp_path)


def test_a_broken_stage_is_named(problem, tmp_path):
    module, data = problem
    interrupted_at("scores", module, data, stages_dir=tmp_path)
    path = tmp_path / "curvature.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=r"curvature.safetensors is not a whole"):
        estimate_influence(module, data, data, stages_dir=tmp_path)


def test_without_a_folder_nothing_is_kept():
    stages = Stages(None, "", Shard())
    assert stages.kept("a", lambda: {"x": torch.ones(1)}, torch.device("cpu"))["x"] == 1
    assert stages.kept("a", lambda: {"x": torch.zeros(1)}, torch.device("cpu"))["x"] == 0
    stages.clear()


def test_fingerprints_tell_models_and_data_apart(problem):
    module, data = problem
    x, y = data.dataset.tensors
    same = fingerprint_of_data(data)
    assert fingerprint_of_data(loader(x.clone(), y.clone(), shuffle=True)) == same
    others = [loader(x, y.flip(0)), loader(x.flip(0), y.flip(0)), loader(x[:39], y[:39]), loader(x.float(), y)]
    assert len({same, *map(fingerprint_of_data, others)}) == 5
    before = fingerprint_of_model(module)
    assert fingerprint_of_model(module) == before
    module[2].weight.data[0, 0] += 1e-6
    assert fingerprint_of_model(module) != before
