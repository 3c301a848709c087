"""Previews of dataset items."""

import numpy as np
import pytest
import torch

from lightning_pareto import ArtifactError, SamplePreviews
from lightning_pareto.report.previews import preview_of, previews_of
from lightning_pareto.storage.artifacts import save_artifact


def test_pictures_are_scaled_to_their_own_range():
    x = torch.tensor([[[-3.0, 1.0], [5.0, -1.0]]]).repeat_interleave(2, 1).repeat_interleave(2, 2)
    found = preview_of((x, 7))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[::2, ::2], [[0, 128], [255, 64]])
    assert not preview_of((torch.full((1, 8, 8), 3.0), 0)).any()
    assert preview_of((torch.tensor([[[0.0, float("nan")], [1.0, float("inf")]]]).repeat(1, 2, 2), 0)).max() == 255


def test_colours_are_kept_and_a_fourth_channel_is_dropped():
    x = torch.rand(3, 8, 10)
    found = preview_of([x, 1])
    assert found.shape == (8, 10, 3)
    np.testing.assert_array_equal(preview_of((torch.cat([x, torch.full((1, 8, 10), 9.0)]), 1)), found)


def test_large_pictures_are_shrunk_by_averaging():
    x = torch.rand(1, 128, 64)
    x[0, 0, 0], x[0, 1, 1] = 0.0, 1.0
    found = preview_of((x, 0))
    assert found.shape == (64, 32)
    means = x.reshape(64, 2, 32, 2).mean(dim=(1, 3))
    np.testing.assert_allclose(found, 255 * means, atol=0.51)
    assert preview_of((torch.rand(3, 2000, 5), 0)).shape == (64, 1, 3)


def test_texts_are_found_and_shortened():
    assert preview_of({"labels": 1, "title": "no", "text": "yes"}) == "yes"
    assert preview_of({"labels": 1, "title": "a title"}) == "a title"
    assert preview_of(("a review", 1)) == "a review"
    assert len(preview_of(("x" * 5000, 1))) == 600


@pytest.mark.parametrize(
    "item",
    [
        (torch.rand(7), 1),
        (torch.arange(12), 1),
        {"input_ids": torch.arange(5), "labels": 2},
        3,
        (torch.rand(2, 9, 9), 0),
        (torch.rand(1, 3, 9), 0),
    ],
)
def test_other_items_have_no_preview(item):
    assert preview_of(item) is None


def test_function_makes_the_preview():
    assert preview_of({"input_ids": [1, 2]}, lambda item: " ".join(map(str, item["input_ids"]))) == "1 2"
    assert preview_of(3, lambda item: np.arange(48.0).reshape(6, 8)).shape == (6, 8)
    assert preview_of(3, lambda item: np.zeros((6, 8, 3))).shape == (6, 8, 3)
    assert preview_of(3, lambda item: None) is None
    image = pytest.importorskip("PIL.Image")
    assert preview_of(3, lambda item: image.new("L", (10, 20))).shape == (20, 10, 3)


def test_errors_are_returned_and_do_not_stop_the_others():
    data = [(torch.rand(1, 8, 8), 0), None, (torch.rand(1, 8, 8), 0)]
    found, failed = previews_of(data, np.array([2, 1, 0, 9]), lambda item: item[0])
    assert sorted(found) == [0, 2]
    assert {index: type(error) for index, error in failed.items()} == {1: TypeError, 9: IndexError}


def test_previews_can_be_saved_and_loaded(tmp_path):
    pictures = {3: np.arange(64, dtype=np.uint8).reshape(8, 8), 11: np.zeros((5, 6, 3), np.uint8), 7: "a text <b>"}
    again = SamplePreviews.load(SamplePreviews(pictures, ("cat", "dog")).save(tmp_path / "samples.safetensors"))
    assert again.of.keys() == pictures.keys()
    assert again.of[7] == "a text <b>"
    for index in (3, 11):
        np.testing.assert_array_equal(again.of[index], pictures[index])
    assert again.class_names == ("cat", "dog")
    assert repr(again) == "SamplePreviews(2 pictures, 1 texts)"
    (tmp_path / "samples.safetensors").write_bytes(b"truncated")
    with pytest.raises(ArtifactError):
        SamplePreviews.load(tmp_path / "samples.safetensors")
    for broken in (np.zeros((8, 8)), np.zeros((8, 8, 2), np.uint8), np.zeros(8, np.uint8)):
        save_artifact(tmp_path / "samples.safetensors", "samples", {"3": broken}, {"texts": {}, "class_names": []})
        with pytest.raises(ArtifactError, match="parts are inconsistent"):
            SamplePreviews.load(tmp_path / "samples.safetensors")
    save_artifact(tmp_path / "samples.safetensors", "samples", {}, {})
    with pytest.raises(ArtifactError, match="parts are inconsistent"):
        SamplePreviews.load(tmp_path / "samples.safetensors")
