"""Previews of the most suspected samples, written after a fit and shown in the report."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from lightning_pareto import InfluenceMatrix, ParetoCallback, SamplePreviews, suspected_samples, write_report
from lightning_pareto.integration.analysis.previews import save_previews
from tests.integration._models import Data, Plain, datasets, trainer


class Pictures(Plain):
    """Recovers the two features from a picture that repeats them."""

    def forward(self, x):
        return self.network(x[:, 0, 0, ::2])


class Items(Dataset):
    """Items made of the features and the label of another dataset."""

    classes = ("east", "north", "west", "south")

    def __init__(self, data, make):
        self.x, self.y = data.tensors
        self.make = make

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.make(self.x[i], self.y[i])


def picture(x, y):
    return x.repeat_interleave(2).expand(1, 4, 4), y


class Texts(Plain):
    def forward(self, text, features):
        return self.network(features)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch["text"], batch["features"]), batch["labels"])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))


def text(x, y):
    return {"text": f"at {x[0]:.2f}, {x[1]:.2f}", "features": x, "labels": y}


def data(make):
    train, val = datasets()
    return Data(Items(train, make), Items(val, make))


def fitted(tmp_path, model, datamodule, **options):
    callback = ParetoCallback(verbose=False, **options)
    trainer(tmp_path, callback).fit(model, datamodule=datamodule)
    return callback, tmp_path / "pareto" / "samples.safetensors"


def test_pictures_of_the_suspects_are_saved_with_the_results(tmp_path):
    callback, path = fitted(tmp_path, Pictures(), data(picture))
    found = SamplePreviews.load(path)
    suspects = suspected_samples(callback.influence, 48)
    assert found.of.keys() == set(suspects.index[suspects.total < 0].tolist())
    assert len(found.of) > 12
    x = datasets()[0].tensors[0]
    for index, preview in found.of.items():
        pixels = np.repeat(x[index].numpy(), 2)
        expected = np.round(255 * (pixels - pixels.min()) / (pixels.max() - pixels.min()))
        np.testing.assert_allclose(preview, np.tile(expected, (4, 1)), atol=1)
    assert found.class_names == Items.classes
    page = write_report(tmp_path).read_text("utf-8")
    assert page.count("<img ") == len(found.of)
    assert page.count("north") > 2


def test_samples_that_do_not_harm_are_not_shown(tmp_path):
    callback, datamodule = ParetoCallback(verbose=False, analyse=False), data(picture)
    fit = trainer(tmp_path, callback)
    fit.fit(Pictures(), datamodule=datamodule)
    scores = np.ones((240, 4))
    scores[[7, 99]] = -1
    save_previews(fit, callback.data, InfluenceMatrix(scores, datasets()[0].tensors[1]), tmp_path)
    assert SamplePreviews.load(tmp_path / "samples.safetensors").of.keys() == {7, 99}


def test_texts_are_found_in_the_items(tmp_path):
    _, path = fitted(tmp_path, Texts(), data(text))
    found = SamplePreviews.load(path)
    x = datasets()[0].tensors[0]
    assert all(preview == f"at {x[index, 0]:.2f}, {x[index, 1]:.2f}" for index, preview in found.of.items())
    assert found.of


def test_preview_function_is_used_for_other_items(tmp_path):
    _, path = fitted(tmp_path, Plain(), Data(), preview=lambda item: f"label {item[1]}")
    found, y = SamplePreviews.load(path), datasets()[0].tensors[1]
    assert found.of == {i: f"label {y[i]}" for i in found.of}


def test_items_that_cannot_be_shown_leave_no_file_and_no_warning(tmp_path):
    replaced = tmp_path / "pareto"
    _, path = fitted(tmp_path, Plain(), Data(), preview=lambda item: "old", dirpath=replaced)
    assert path.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        callback, path = fitted(tmp_path, Plain(), Data(), dirpath=replaced)
    assert callback.verdict
    assert not path.exists()
    assert write_report(tmp_path).exists()


def test_error_of_a_preview_costs_only_that_preview(tmp_path):
    def fails_on_even_labels(item):
        if item[1] % 2 == 0:
            raise RuntimeError("no picture today")
        return "odd"

    with pytest.warns(UserWarning, match="no preview of .* suspected samples .* RuntimeError: no picture today"):
        callback, path = fitted(tmp_path, Plain(), Data(), preview=fails_on_even_labels)
    y = datasets()[0].tensors[1]
    assert all(y[index] % 2 == 1 for index in SamplePreviews.load(path).of)
    assert callback.verdict.answer
    assert (tmp_path / "pareto" / "verdict.safetensors").exists()


def test_unwritable_file_costs_only_the_previews(tmp_path):
    (tmp_path / "pareto" / "samples.safetensors").mkdir(parents=True)
    with pytest.warns(UserWarning, match="no previews of the suspected samples"):
        callback, _ = fitted(tmp_path, Pictures(), data(picture))
    assert callback.verdict.answer


def test_labels_keep_their_names_if_the_categories_are_not_the_classes(tmp_path):
    options = {"categories": lambda batch: batch[1] % 2, "category_names": ["even", "odd"], "preview": str}
    _, path = fitted(tmp_path / "a", Plain(), Data(), **options)
    assert SamplePreviews.load(path).class_names == ()
    _, path = fitted(tmp_path / "b", Plain(), Data(), class_names=["a", "b", "c", "d"], **options)
    assert SamplePreviews.load(path).class_names == ("a", "b", "c", "d")


def test_previews_do_not_change_the_random_state(tmp_path):
    drawn = []
    for preview in (None, lambda item: str(torch.rand(()))):
        torch.manual_seed(0)
        fitted(tmp_path, Plain(), Data(), preview=preview)
        drawn.append(float(torch.rand(())))
    assert drawn[0] == drawn[1]
