"""Everything can be set from LightningCLI's YAML."""

import inspect
import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI

from lightning_pareto import (
    ClassificationTask,
    CourseCorrection,
    InfluenceMatrix,
    ParetoCallback,
    ParetoSampler,
    ReweightedDataModule,
    SampleWeights,
)
from lightning_pareto.command_line import main
from tests.integration._models import Plain

pytest.importorskip("jsonargparse", reason="the command line is an extra: pip install 'lightning_pareto[cli]'")

EXAMPLES = Path(__file__).parents[2] / "examples"


def images(module, batch):
    return module(batch[0])


def smooth(logits, targets):
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none", label_smoothing=0.1)


def sites(batch):
    return batch[1] % 2


def text_of(item):
    return str(item)


CALLBACK = {
    "task": {
        "class_path": "lightning_pareto.ClassificationTask",
        "init_args": {"logits": f"{__name__}.images", "loss": f"{__name__}.smooth"},
    },
    "class_names": ["a", "b", "c", "d"],
    "categories": f"{__name__}.sites",
    "category_names": ["east", "west"],
    "curvature": "cg",
    "measure": "soft_error",
    "damping": 0.5,
    "layers": ["network.*"],
    "fisher": "exact",
    "curvature_samples": 100,
    "max_memory": 0.5,
    "val_dataloader_idx": 1,
    "dirpath": "results",
    "seed": 7,
    "verbose": False,
}

PARETO = CALLBACK | {
    "folds": 4,
    "budget": 0.3,
    "level": 0.1,
    "targets": ["east"],
    "floors": -0.1,
    "checkpoint": ["a.ckpt", "b.ckpt"],
    "preview": f"{__name__}.text_of",
    "metrics": {
        "f1": "f1",
        "specificity": {
            "class_path": "torchmetrics.classification.MulticlassSpecificity",
            "init_args": {"num_classes": 4, "average": None},
        },
    },
    "prefix": "val_site_",
    "log_figures": False,
    "analyse": False,
}

CORRECTION = CALLBACK | {
    "threshold": 0.1,
    "level": 0.01,
    "least_gain": 0.02,
    "warmup_epochs": 4,
    "max_corrections": 5,
    "budget": 0.1,
    "keep": 0.5,
    "method": "paper",
    "return_mass": "additive",
}


def parsed(tmp_path, **config):
    path = tmp_path / "config.yaml"
    quiet = {"logger": False, "accelerator": "cpu", "default_root_dir": str(tmp_path)}
    config["trainer"] = quiet | config.get("trainer", {})
    path.write_text(yaml.safe_dump(config))
    return LightningCLI(
        Plain,
        pl.LightningDataModule,
        subclass_mode_data=True,
        run=False,
        args=["--config", str(path)],
        save_config_callback=None,
        seed_everything_default=False,
    )


def data(tmp_path, **options):
    """The data of the example, by its import path."""
    return {"class_path": "lightning_cli.Plane", "init_args": {"samples": 8, **options}}


@pytest.fixture
def example(monkeypatch):
    """The example as an importable module, with an empty command line."""
    monkeypatch.setattr(sys, "argv", ["lightning_cli.py"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning calls it in an older way
    monkeypatch.syspath_prepend(EXAMPLES)
    import lightning_cli

    return lightning_cli


def callback_from(tmp_path, kind, options):
    entry = {"class_path": f"lightning_pareto.{kind.__name__}", "init_args": options}
    cli = parsed(tmp_path, trainer={"callbacks": [entry]}, data=data(tmp_path))
    (callback,) = [each for each in cli.trainer.callbacks if type(each) is kind]
    return callback


def read_in_common(callback):
    assert isinstance(callback.data.task, ClassificationTask)
    batch = (torch.zeros(1), torch.tensor([3, 2]))
    assert callback.data.task.logits(torch.nn.Identity(), batch) is batch[0]
    assert callback.data.task.loss(torch.eye(2), torch.tensor([0, 1])).shape == (2,)
    assert callback.data.categories(batch).tolist() == [1, 0]
    assert list(callback.data.class_names) == ["a", "b", "c", "d"]
    assert list(callback.data.category_names) == ["east", "west"]
    assert callback.data.val_dataloader_idx == 1
    influence = callback.options.influence
    assert (influence.curvature, influence.measure, influence.damping) == ("cg", "soft_error", 0.5)
    assert (list(influence.layers), influence.fisher, influence.curvature_samples) == (["network.*"], "exact", 100)
    assert (influence.seed, callback.options.max_memory, callback.verbose) == (7, 0.5, False)
    assert callback.dirpath == Path("results")


def test_all_options_of_the_callback(example, tmp_path):
    callback = callback_from(tmp_path, ParetoCallback, PARETO)
    read_in_common(callback)
    question = callback.question
    assert (callback.options.influence.folds, question.budget, question.level) == (4, 0.3, 0.1)
    assert (list(question.targets), question.floors) == (["east"], -0.1)
    assert (list(map(str, callback.options.checkpoint)), callback.analyse) == (["a.ckpt", "b.ckpt"], False)
    assert callback.data.preview is text_of
    assert not callback.log_figures
    assert set(callback.classwise._chosen) == {"f1", "specificity"}


@pytest.mark.parametrize("metrics", [["accuracy", "f1"], {"mine": "recall"}])
def test_metrics_can_be_named(metrics, example, tmp_path):
    callback_from(tmp_path, ParetoCallback, {"metrics": metrics})


@pytest.mark.parametrize(("kind", "options"), [(ParetoCallback, PARETO), (CourseCorrection, CORRECTION)])
def test_no_option_is_missing_here(kind, options):
    assert inspect.signature(kind).parameters.keys() - options.keys() == {"train_dataloader"}, (
        "no file can hold a loader"
    )


@pytest.mark.parametrize("checkpoint", ["best", "last", "kept"])
@pytest.mark.parametrize("targets", ["east", 1, [1, "east"]])
def test_options_of_several_types(checkpoint, targets, example, tmp_path):
    options = {"checkpoint": checkpoint, "targets": targets, "floors": [0.0, -0.1], "curvature_samples": None}
    callback = callback_from(tmp_path, ParetoCallback, options)
    assert callback.options.checkpoint == checkpoint
    assert callback.question.targets == targets
    assert list(callback.question.floors) == [0.0, -0.1]
    assert callback.options.influence.curvature_samples is None


def test_all_options_of_course_correction(example, tmp_path):
    callback = callback_from(tmp_path, CourseCorrection, CORRECTION)
    read_in_common(callback)
    rules, weights = callback.rules, callback.weights
    assert (rules.threshold, rules.level, rules.least_gain) == (0.1, 0.01, 0.02)
    assert (rules.warmup_epochs, rules.max_corrections) == (4, 5)
    assert (weights.budget, weights.keep, weights.method, weights.return_mass) == (0.1, 0.5, "paper", "additive")


@pytest.mark.parametrize("kind", [ParetoCallback, CourseCorrection])
def test_defaults_survive_a_round_trip(kind, example, tmp_path):
    expected, found = vars(kind()), vars(callback_from(tmp_path, kind, {}))
    for name in ("options", "data", *(["question"] if kind is ParetoCallback else ["rules", "weights"])):
        assert found[name] == expected[name], name


@pytest.mark.parametrize("weights", ["a path", [0.0, 2.0] * 4])
def test_weights_come_from_a_file_or_a_list(weights, example, tmp_path):
    if isinstance(weights, str):
        weights = str(SampleWeights([0.0, 2.0] * 4).save(tmp_path / "weights.safetensors"))
    options = {"datamodule": data(tmp_path), "weights": weights, "seed": 3}
    cli = parsed(tmp_path, data={"class_path": "lightning_pareto.ReweightedDataModule", "init_args": options})
    assert isinstance(cli.datamodule, ReweightedDataModule)
    np.testing.assert_array_equal(cli.datamodule.weights.values, [0.0, 2.0] * 4)
    assert (cli.datamodule.seed, cli.datamodule.loader, cli.datamodule.apply) == (3, None, "resampling")
    sampler = cli.datamodule.train_dataloader().sampler
    assert sorted(sampler) == [1, 1, 3, 3, 5, 5, 7, 7]

    options |= {"apply": "loss", "loader": "labelled"}
    cli = parsed(tmp_path, data={"class_path": "lightning_pareto.ReweightedDataModule", "init_args": options})
    assert (cli.datamodule.apply, cli.datamodule.loader) == ("loss", "labelled")


def fit(example, monkeypatch, config, *options):
    monkeypatch.setattr(
        sys, "argv", ["lightning_cli.py", "fit", "--config", str(EXAMPLES / "configs" / config), *options]
    )
    monkeypatch.setattr(example, "LightningCLI", Kept)
    example.main()
    return Kept.last


class Kept(LightningCLI):
    """Remembers the last one."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        Kept.last = self


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_configs_of_the_example_run_one_after_the_other(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fit(example, monkeypatch, "first_fit.yaml")
    assert "Pareto improvement possible: YES" in capsys.readouterr().out
    assert InfluenceMatrix.load("results/first_fit/pareto/influence.safetensors").category_names[0] == "east"
    assert main(["reweight", "results/first_fit", "--budget", "0.3"]) == 0
    second = fit(example, monkeypatch, "second_fit.yaml")
    assert isinstance(second.trainer.train_dataloader.sampler, ParetoSampler)
    weights = SampleWeights.load("results/first_fit/pareto/weights.safetensors").values
    np.testing.assert_array_equal(second.datamodule.weights.values, weights)
    assert "val_accuracy/east" in second.trainer.callback_metrics
    corrected = fit(example, monkeypatch, "course_correction.yaml", "--trainer.max_epochs", "5")
    (callback,) = [each for each in corrected.trainer.callbacks if isinstance(each, CourseCorrection)]
    assert callback.corrections
