"""The comparison of two models, by themselves and from the command line."""

import json

import numpy as np
import pytest
import torch

from lightning_pareto import ClasswiseChange, Outcome, compare_models
from lightning_pareto.command_line import main
from tests.integration._models import Data, Plain, trainer
from tests.integration.test_analyse import Forbidden, config, seeded

__all__ = ["config"]  # a fixture


class Wide(Plain):
    def __init__(self):
        super().__init__()
        self.network = torch.nn.Linear(2, 5)


class Lenient(Plain):
    strict_loading = False


@pytest.fixture
def trained(tmp_path):
    """A model, its checkpoint before the fit and the one after it."""
    model, fitted = seeded(), trainer(tmp_path)
    fitted.strategy.connect(model)
    paths = tmp_path / "first.ckpt", tmp_path / "second.ckpt"
    fitted.save_checkpoint(paths[0])
    fitted.fit(model, datamodule=Data())
    fitted.save_checkpoint(paths[1])
    return model, *paths


def predictions(model):
    data = Data().val
    with torch.no_grad():
        return model.eval()(data.tensors[0]).argmax(dim=1) == data.tensors[1]


def test_models_checkpoints_and_predictions_agree(trained, tmp_path):
    model, first, second = trained
    before = {name: value.clone() for name, value in model.state_dict().items()}
    change = compare_models(first, model, Data(), trainer=trainer(tmp_path, Forbidden()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    np.testing.assert_array_equal(change.after.correct, predictions(model))
    np.testing.assert_array_equal(change.before.correct, predictions(seeded()))
    assert change.category_names == tuple(Data().train.classes)
    saved = [
        outcome.save(tmp_path / f"{name}.safetensors") for name, outcome in (("a", change.before), ("b", change.after))
    ]
    for pair in [(first, second), saved, (change.before, change.after)]:
        again = compare_models(*pair, Data().val_dataloader(), model=Plain())
        assert str(again) == str(change)
        np.testing.assert_array_equal(again.after.correct, change.after.correct)


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp_fork"])
def test_two_processes_agree_with_one(trained, tmp_path, strategy):
    model, first, _ = trained
    alone = compare_models(first, model, Data())
    both = compare_models(first, model, Data(), trainer=trainer(tmp_path, devices=2, strategy=strategy))
    np.testing.assert_array_equal(both.after.correct, alone.after.correct)
    np.testing.assert_array_equal(both.before.correct, alone.before.correct)


@pytest.mark.parametrize(
    ("before", "options", "kind", "error"),
    [
        (3, {}, TypeError, "expected a LightningModule, a checkpoint"),
        ("no.ckpt", {}, ValueError, "which is no file"),
        (__file__, {}, TypeError, "pass model=…"),
        (Plain(), {}, TypeError, "pass the validation samples"),
        (Plain(), {"val_dataloader": Data(), "tolerance": {"cow": 0.1}}, ValueError, "tolerance names"),
        (Plain(), {"val_dataloader": Data(), "tolerance": 5}, ValueError, "Divide points by 100"),
        (Plain(), {"val_dataloader": Data(), "level": 5}, ValueError, "level must be"),
    ],
)
def test_wrong_arguments_are_refused(before, options, kind, error):
    after = Outcome.of([0, 1], [0, 1], ["a", "b"]) if "val_dataloader" not in options else Plain()
    with pytest.raises(kind, match=error):
        compare_models(before, after, **options)


@pytest.mark.parametrize(
    ("after", "options", "kind", "error"),
    [
        (Plain(), {"tolerance": 5}, ValueError, "Divide points by 100"),
        (Plain(), {"tolerance": {"cow": 0.1}, "class_names": ["a", "b", "c"]}, ValueError, "tolerance names cow"),
        (Outcome.of([0, 1], [0, 1], ["a", "b"]), {"tolerance": {"cow": 0.1}}, ValueError, "tolerance names cow"),
        (Plain(), {"level": 5}, ValueError, "level must be"),
        ("no.ckpt", {}, ValueError, "which is no file"),
        (3, {}, TypeError, "expected a LightningModule, a checkpoint"),
    ],
)
def test_wrong_arguments_are_refused_before_any_prediction(monkeypatch, after, options, kind, error):
    monkeypatch.setattr("lightning_pareto.integration.compare._predicted", lambda *_: pytest.fail("it predicts"))
    with pytest.raises(kind, match=error):
        compare_models(Plain(), after, Data(), **options)


def test_names_of_a_tolerance_are_checked_after_the_first_prediction(monkeypatch):
    outcomes = iter([Outcome.of([0, 1], [0, 1], ["a", "b"])])
    monkeypatch.setattr("lightning_pareto.integration.compare._predicted", lambda *_: next(outcomes))
    with pytest.raises(ValueError, match="tolerance names cow, but the categories are a, b"):
        compare_models(Plain(), Plain(), Data(), tolerance={"cow": 0.1})


def test_saved_state_dict_serves_as_a_checkpoint(trained, tmp_path):
    model, first, _ = trained
    torch.save(model.state_dict(), tmp_path / "sd.pt")
    change = compare_models(first, tmp_path / "sd.pt", Data(), model=Plain())
    np.testing.assert_array_equal(change.after.correct, predictions(model))
    for other in ({"model": model.state_dict()}, [1.0]):
        torch.save(other, tmp_path / "other.pt")
        with pytest.raises(ValueError, match=r"other\.pt cannot be loaded \(\w+: .*a state_dict\(\) of this module"):
            compare_models(first, tmp_path / "other.pt", Data(), model=Lenient())


class Unsafe:
    pass


def test_file_that_is_no_checkpoint_is_told_from_one_with_objects(trained, tmp_path):
    _, first, _ = trained
    path = tmp_path / "other.ckpt"
    path.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match="It must be a checkpoint"):
        compare_models(first, path, Data(), model=Plain())
    torch.save({"state_dict": {}, "hyper_parameters": Unsafe()}, path)
    with pytest.raises(ValueError, match=r"Unsafe was not an allowed global.* leave them out"):
        compare_models(first, path, Data(), model=Plain())


def test_checkpoint_of_another_model_is_refused(trained):
    _, first, _ = trained
    with pytest.raises(ValueError, match="cannot be loaded"):
        compare_models(first, first, Data(), model=Wide())


def test_command_compares_predictions(tmp_path, capsys):
    labels = [0] * 50 + [1] * 50
    Outcome.of(labels, [0] * 80 + [1] * 20, ["cat", "dog"]).save(tmp_path / "a.safetensors")
    Outcome.of(labels, [0] * 46 + [1] * 54, ["cat", "dog"]).save(tmp_path / "b.safetensors")
    files = [str(tmp_path / f"{name}.safetensors") for name in "ab"]
    assert main(["compare", *files]) == 0
    assert "Better: dog and the mean rise beyond chance" in capsys.readouterr().out
    assert main(["compare", *files[::-1]]) == 13
    assert main(["compare", *files[::-1], "--exit-zero"]) == 0
    assert main(["compare", files[0], files[0], "--must-gain"]) == 14
    assert main(["compare", files[0], files[0]]) == 0
    capsys.readouterr()
    assert main(["compare", *files[::-1], "--json", "--tolerance", "dog=70", "--exit-zero"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["lost"] for each in found["categories"]] == [False, False]
    assert main(["compare", *files, "--tolerance", "much"]) == 2
    assert "one number of points" in capsys.readouterr().err
    for wrong in (["dog=1", "dog=50"], ["dog=1", "--tolerance", "dog=50"], ["200"], ["cat=-1"], ["1", "dog=2"]):
        assert main(["compare", *files, "--tolerance", *wrong]) == 2
        assert "in [0, 100), or CLASS=POINTS for some classes, each once" in capsys.readouterr().err
    assert main(["compare", *files[::-1], "--tolerance", "dog=70", "--tolerance", "cat=1"]) == 0
    assert main(["compare", *files, "--tolerance", "cow=1"]) == 2
    assert "tolerance names cow, but the categories are cat, dog" in capsys.readouterr().err
    assert main(["compare", "--tolerance", "1", *files]) == 2
    assert "Give them first, before options that take several values" in capsys.readouterr().err
    assert main(["compare", "a.ckpt", "b.ckpt"]) == 2
    assert "--config config.yaml" in capsys.readouterr().err
    assert main(["compare", "a.safetensors", "b.safetensors"]) == 2
    assert "no outcome artifact at a.safetensors" in capsys.readouterr().err


def test_command_compares_checkpoints(config, trained, capsys):
    _, first, second = trained
    options = ["--config", str(config), "--model", "its_project.Model", "--json"]
    assert main(["compare", str(first), str(second), *options, "--exit-zero"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = compare_models(first, second, Data(), model=Plain())
    assert found["mean"]["change"] == pytest.approx(100 * expected.macro)
    assert isinstance(expected, ClasswiseChange)
