"""Every code block of the README and of the recipes runs."""

import gzip
import re
import runpy
import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_pareto import InfluenceMatrix, ParetoSampler
from tests._processes import printed_by
from tests.integration._models import Data, Plain, datasets

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RECIPES = (ROOT / "examples" / "recipes.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README + RECIPES, re.DOTALL)
BASH = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A user's project in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    train, val = datasets(noise=0.3, train=320, val=200)
    for name in ("best.ckpt", "first.ckpt"):
        torch.save({"state_dict": Plain().state_dict()}, name)
    return {
        "model": Plain(),
        "fresh_model": Plain(),
        "datamodule": Data(train, val),
        "train_dataloader": DataLoader(train, batch_size=32, shuffle=True),
        "val_dataloader": DataLoader(val, batch_size=32),
        "weights": np.ones(len(train)),
        "pl": pl,
    }


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:the verdict is")
@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.split("\n")[0])
def test_python_blocks(block, project):
    influence = InfluenceMatrix(np.random.default_rng(0).normal(size=(50, 2)), np.arange(50) % 2)
    influence.save("pareto/influence.safetensors")
    exec(block, project)
    if "trainer" in project:
        assert isinstance(project["trainer"], pl.Trainer)
        assert isinstance(project["trainer"].train_dataloader.sampler, ParetoSampler), (
            "the second fit samples by weight"
        )
    if "suspects" in project:
        assert len(project["suspects"]) == 20
        assert isinstance(project["train_dataloader"].sampler, ParetoSampler)


def test_there_are_two_commands():
    main, tests = BASH
    assert main == 'pip install -e ".[examples]" && python examples/quickstart.py\n'
    assert tests == 'pip install -e ".[dev]" && python -m pytest\n'


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_quickstart_shows_what_it_promises(tmp_path):
    picture = tmp_path / "digits.png"
    output = printed_by(ROOT / "examples" / "quickstart.py", "--seeds", "3", "--picture", str(picture))
    assert "Pareto improvement possible: YES" in output
    seeds = re.findall(r"seed (\d): improvable (\S+); flipped labels found with AUC ([\d.]+)", output)
    assert [seed for seed, _, _ in seeds] == list("012")
    assert {answer for _, answer, _ in seeds} == {"yes"}
    assert min(float(auc) for _, _, auc in seeds) >= 0.95
    means = re.search(r"^mean +(\d.*)$", output, re.MULTILINE)[1].split("  ")
    first, ordinary, joined, pareto = (float(cell.split(" ± ")[0]) for cell in means if cell.strip())
    assert pareto > max(first, ordinary, joined)
    assert picture.stat().st_size > 10_000


def test_missing_data_set_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.setattr(sys, "argv", ["fashion_mnist.py", "--data", str(tmp_path)])
    with pytest.raises(
        SystemExit, match=rf"Fashion-MNIST not found in {tmp_path}(.|\n)*apt-get install dataset-fashion-mnist"
    ):
        runpy.run_path(str(ROOT / "examples" / "fashion_mnist.py"), run_name="__main__")


@pytest.fixture
def tiny_fashion(tmp_path):
    """A folder in Fashion-MNIST's format with 600 random images."""
    rng = np.random.default_rng(0)
    for part, size in (("train", 600), ("t10k", 200)):
        labels = (np.arange(size) % 10).astype(np.uint8)
        images = rng.integers(0, 50, (size, 28, 28)).astype(np.uint8)
        images[np.arange(size), labels] += 200  # each class a bright row
        with gzip.open(tmp_path / f"{part}-images-idx3-ubyte.gz", "wb") as file:
            file.write(bytes(16) + images.tobytes())
        with gzip.open(tmp_path / f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(bytes(8) + labels.tobytes())
    return tmp_path


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_fashion_mnist_runs_from_a_folder_with_its_options(tiny_fashion):
    script = ROOT / "examples" / "fashion_mnist.py"
    sizes = ["--samples", "400", "--val-samples", "200", "--seeds", "2", "--epochs", "2", "--imbalance", "0.2"]
    output = printed_by(script, "--data", str(tiny_fashion), "--devices", "2", *sizes)
    assert len(re.findall(r"^seed \d: improvable", output, re.MULTILINE)) == 2, "each seed once, by rank zero"
    assert "2 seeds" in output
    assert "T-shirt" in output
