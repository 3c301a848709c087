"""Tests of saved stages and fingerprints: an interrupted computation resumes after its last finished stage."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from lightning_pareto import ArtifactError, ClassificationTask, Shard, StagesError, estimate_influence
from lightning_pareto.influence.fingerprint import fingerprint_of, fingerprint_of_data, fingerprint_of_model
from lightning_pareto.influence.gradients import GradientProbe
from lightning_pareto.influence.layers import select_layers
from lightning_pareto.influence.passes import GradientPass
from lightning_pareto.influence.scoring import COPIES
from lightning_pareto.influence.stages import Stages
from tests._asserts import assert_near
from tests._oracles import loader, loaders_of_one_set
from tests._tolerances import RELATIVE


@pytest.fixture
def problem():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3))
    return module, loader(torch.randint(9, (40, 3)), torch.arange(40) % 3)


def interrupt_at(stage, module, data, **options):
    """Interrupt an estimate in the given stage."""

    def progress(name, done, _total):
        if name == stage and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimate_influence(module, data, data, progress=progress, **options)


@pytest.mark.parametrize("curvature", ["ekfac", "cg"])
@pytest.mark.parametrize(
    ("stage", "again"),
    [("factors", True), ("eigenvalues", True), ("category gradients", False), ("scores", False)],
)
def test_resumes_after_the_last_finished_stage(problem, tmp_path, curvature, stage, again):
    module, data = problem
    options = {"curvature": curvature, "stages_dir": tmp_path / "stages", "folds": 3}
    interrupt_at(stage, module, data, **options)
    begun = []
    found = estimate_influence(module, data, data, progress=lambda name, *_: begun.append(name), **options)
    assert ("factors" in begun) is again
    expected = estimate_influence(module, data, data, curvature=curvature, folds=3)
    np.testing.assert_array_equal(found.fold_scores, expected.fold_scores)
    assert found.metadata == expected.metadata
    assert not (tmp_path / "stages").exists()


def test_resumes_after_the_last_finished_block_of_scores(problem, tmp_path):
    module, data = problem
    options = {
        "stages_dir": tmp_path / "stages",
        "folds": 3,
        "max_memory": 2 * 4 * COPIES * 75 / 2**30,
    }  # blocks of three
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


def test_refuses_stages_of_other_options_or_weights(problem, tmp_path):
    module, data = problem
    interrupt_at("scores", module, data, stages_dir=tmp_path)
    with pytest.raises(StagesError, match="the data or the options have changed"):
        estimate_influence(module, data, data, stages_dir=tmp_path, damping=0.2)
    with torch.no_grad():
        module[2].bias += 1
    with pytest.raises(StagesError, match="the model, the data"):
        estimate_influence(module, data, data, stages_dir=tmp_path)


def test_error_names_a_damaged_stage(problem, tmp_path):
    module, data = problem
    interrupt_at("scores", module, data, stages_dir=tmp_path)
    [path] = tmp_path.glob("curvature*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=r"curvature .*safetensors is not a valid"):
        estimate_influence(module, data, data, stages_dir=tmp_path)


def test_saves_nothing_without_a_folder():
    stages = Stages(None, "", Shard())
    assert stages.load_or_compute("a", lambda: {"x": torch.ones(1)}, torch.device("cpu"))["x"] == 1
    assert stages.load_or_compute("a", lambda: {"x": torch.zeros(1)}, torch.device("cpu"))["x"] == 0
    stages.clear()


def interrupted_folder(problem, tmp_path, **options):
    module, data = problem
    interrupt_at("scores", module, data, stages_dir=tmp_path / "stages", **options)
    return tmp_path / "stages"


@pytest.mark.parametrize(
    "change",
    [
        {"categories": lambda batch: batch[1].flip(0)},
        {"task": ClassificationTask(loss=lambda z, y: 2 * nn.functional.cross_entropy(z, y, reduction="none"))},
    ],
    ids=["categories", "loss"],
)
def test_refuses_stages_of_other_categories_or_loss(problem, tmp_path, change):
    folder = interrupted_folder(problem, tmp_path)
    with pytest.raises(StagesError, match="belongs to another computation"):
        estimate_influence(problem[0], problem[1], problem[1], stages_dir=folder, **change)


def test_refuses_stages_of_data_with_one_other_label(problem, tmp_path):
    module, data = problem
    folder = interrupted_folder(problem, tmp_path)
    x, y = data.dataset.tensors
    for index in (0, 7, 21):
        corrected = y.clone()
        corrected[index] = (corrected[index] + 1) % 3
        with pytest.raises(StagesError, match="belongs to another computation"):
            estimate_influence(module, *loaders_of_one_set(x, corrected), stages_dir=folder)


def test_leaves_other_files_in_the_folder(problem, tmp_path):
    module, data = problem
    (tmp_path / "mine.txt").write_text("a thesis")
    (tmp_path / ".mine.yaml").write_text("settings of an editor")
    (tmp_path / ".factors.safetensors.abandoned").write_text("leftover of a killed writer")
    (tmp_path / "sub").mkdir()
    estimate_influence(module, data, data, stages_dir=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.yaml", "mine.txt", "sub"]


def whole_pass(module, data):
    """A pass over all samples."""
    probe = GradientProbe(module, select_layers(module), ClassificationTask())
    return GradientPass(loader=data, probe=probe, shard=Shard(), device=torch.device("cpu"))


class UnusualValues(Dataset):
    """Samples with values that are hard to hash."""

    def __init__(self, label):
        self.label = label

    def __len__(self):
        return 12

    def __getitem__(self, i):
        return {"x": torch.ones(3) * i, "y": np.int64(self.label), "note": "text", "when": np.datetime64("2020-01-01")}


def test_fingerprints_distinguish_models_and_data(problem):
    module, data = problem
    x, y = data.dataset.tensors
    same = fingerprint_of_data(whole_pass(module, data))
    assert fingerprint_of_data(whole_pass(module, loader(x.clone(), y.clone(), shuffle=True))) == same
    others = [loader(x, y.flip(0)), loader(x.flip(0), y.flip(0)), loader(x[:39], y[:39])]
    assert len({same, *(fingerprint_of_data(whole_pass(module, other)) for other in others)}) == 4
    before = fingerprint_of_model(module)
    assert fingerprint_of_model(module) == before
    module[2].weight.data[0, 0] += 1e-6
    assert fingerprint_of_model(module) != before
    values = [np.int64(0), np.int64(1), np.array(["a"]), np.array([None]), b"x", {"a": [1, (2.0, "b")]}, object()]
    values += [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), np.zeros(4), np.zeros((2, 2))]
    assert len({fingerprint_of(value) for value in values}) == len(values)


def test_fingerprints_depend_on_buffers_and_on_labels_of_unread_samples(problem):
    """Only eight samples are read: the first, the last, and six in between, but not the second."""
    module, data = problem
    x, y = data.dataset.tensors
    other = y.clone()
    other[1] = (y[1] + 1) % 3
    order = list(range(len(y)))
    order[1] = 3
    sets = [TensorDataset(x, y), TensorDataset(x, other), *(Subset(data.dataset, i) for i in (order, range(len(y))))]
    *different, same = [fingerprint_of_data(whole_pass(module, DataLoader(each, 10))) for each in sets]
    assert len(set(different)) == 3
    assert same == different[0]
    norm = nn.BatchNorm1d(3)
    before = fingerprint_of_model(norm)
    norm.running_var[0] += 1e-6
    assert fingerprint_of_model(norm) != before


def test_pass_holds_one_graph_at_a_time(problem):
    module, data = problem
    batches = whole_pass(module, DataLoader(data.dataset, 10))
    with batches.probe.open():
        earlier = []
        for _, _, forward in batches("stage"):
            assert forward.logits.requires_grad
            assert not any(each.logits.requires_grad or each._uses for each in earlier)
            earlier.append(forward)
    assert len(earlier) > 1


def test_fingerprints_accept_any_values():
    module = nn.Linear(3, 2)
    task = ClassificationTask(logits=lambda m, batch: m(batch[0]), targets=lambda batch: batch[1])

    def read(samples):
        x, y = torch.stack([s["x"] for s in samples]), torch.tensor([int(s["y"]) for s in samples])
        return x, y, [s["when"] for s in samples], torch.eye(2).to_sparse()

    found = []
    for label in (0, 1):
        data = DataLoader(UnusualValues(label), batch_size=4, collate_fn=read)
        probe = GradientProbe(module, select_layers(module), task)
        found.append(
            fingerprint_of_data(GradientPass(loader=data, probe=probe, shard=Shard(), device=torch.device("cpu")))
        )
    assert found[0] != found[1]
