"""Previews of training samples: small pictures and short texts."""

import base64
import io
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from lightning_pareto.storage.artifacts import consistent_parts, load_artifact, save_artifact

MAX_SIDE = 64
"""Longer side of a picture, in pixels."""

MAX_CHARACTERS = 600
"""Length of a text, in characters."""

CHANNELS = (1, 3, 4)
MIN_SIDE = 4

Picture = npt.NDArray[np.uint8]
Preview = Picture | str
"""A picture (H, W) or (H, W, 3), or a text."""


@dataclass(frozen=True, eq=False, repr=False)
class SamplePreviews:
    """Pictures and texts of some training samples.

    Attributes:
        of: previews by dataset index. Samples without a preview are missing.
        class_names: names of the labels. Empty if they have none.
    """

    of: Mapping[int, Preview]
    class_names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        texts = sum(isinstance(preview, str) for preview in self.of.values())
        return f"SamplePreviews({len(self.of) - texts} pictures, {texts} texts)"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the previews to ``path`` (safetensors) atomically."""
        pictures = {str(index): preview for index, preview in self.of.items() if not isinstance(preview, str)}
        texts = {str(index): preview for index, preview in self.of.items() if isinstance(preview, str)}
        return save_artifact(path, "samples", pictures, {"texts": texts, "class_names": list(self.class_names)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SamplePreviews":
        """Read previews written by :meth:`save`. Any other file raises an :class:`ArtifactError`."""
        pictures, metadata = load_artifact(path, "samples")
        with consistent_parts(path):
            found: dict[str, Preview] = {**pictures, **metadata["texts"]}
            names = tuple(map(str, metadata["class_names"]))
            return cls({int(index): _checked(preview) for index, preview in found.items()}, names)


def _checked(preview: Any) -> Preview:
    """Return the preview if it can be displayed, else raise a ValueError."""
    if isinstance(preview, str):
        return preview
    if preview.dtype != np.uint8 or not (preview.ndim == 2 or (preview.ndim == 3 and preview.shape[2] == 3)):
        raise ValueError(f"a picture must be uint8 (H, W) or (H, W, 3), found {preview.dtype} {preview.shape}")
    found: Picture = preview
    return found


def preview_of(item: Any, function: Callable[[Any], Any] | None = None) -> Preview | None:
    """Return a picture or a text that shows a dataset item.

    Strings become texts. Tensors and arrays become pictures if they are (C, H, W) with one, three or four channels, the
    fourth of which is dropped. With a ``function``, (H, W) and (H, W, C) are accepted too. Of a mapping, the entry
    ``"text"`` is used, or else the first entry that can be shown. Of a tuple or list, it is the first such element.
    Pictures are scaled from their smallest value (black) to their largest (white). So normalised pictures are visible,
    but brightness cannot be compared between samples.

    Args:
        item: an item of the dataset.
        function: turns the item into a picture (tensor, array or PIL image) or a text.

    Returns:
        A picture, uint8 (H, W) or (H, W, 3), of at most 64 pixels per side, a text of at most 600 characters, or None.
    """
    if function is not None:
        return _preview(function(item), any_layout=True)
    return next((found for part in _parts(item) if (found := _preview(part, any_layout=False)) is not None), None)


def previews_of(
    dataset: Any, indices: Iterable[int], function: Callable[[Any], Any] | None = None
) -> tuple[dict[int, Preview], dict[int, Exception]]:
    """Previews of these items of a dataset by index, see :func:`preview_of`, and the errors by index."""
    found, failed = dict[int, Preview](), dict[int, Exception]()
    for index in map(int, indices):
        try:
            preview = preview_of(dataset[index], function)
        except Exception as error:  # datasets and functions may raise anything
            failed[index] = error
        else:
            if preview is not None:
                found[index] = preview
    return found, failed


def png_data(picture: Picture) -> str:
    """A picture as a ``data:`` address of a PNG file."""
    from PIL import Image  # comes with matplotlib

    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _parts(item: Any) -> Iterable[Any]:
    if isinstance(item, Mapping):
        return itertools.chain([item["text"]] if "text" in item else [], item.values())
    return item if isinstance(item, (tuple, list)) else [item]


def _preview(value: Any, any_layout: bool) -> Preview | None:
    if isinstance(value, str):
        return value if len(value) <= MAX_CHARACTERS else value[: MAX_CHARACTERS - 1] + "…"
    if isinstance(value, torch.Tensor):
        value = value.detach().to("cpu", torch.float32).numpy()
    elif hasattr(value, "convert") and hasattr(value, "size"):  # a PIL image
        value = np.asarray(value.convert("RGB")).transpose(2, 0, 1)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
        return None
    if any_layout and value.ndim == 2:
        value = value[None]
    if any_layout and value.ndim == 3 and value.shape[0] not in CHANNELS and value.shape[2] in CHANNELS:
        value = value.transpose(2, 0, 1)
    if value.ndim != 3 or value.shape[0] not in CHANNELS or min(value.shape[1:]) < MIN_SIDE:
        return None
    return _picture(value[:3].astype(np.float32))


def _picture(pixels: npt.NDArray[np.float32]) -> Picture:
    """Convert (C, H, W) to uint8 (H, W) or (H, W, 3), scaled to its own range and at most 64 pixels per side."""
    finite = np.isfinite(pixels)
    low, high = (pixels[finite].min(), pixels[finite].max()) if finite.any() else (0, 0)
    scaled = (np.where(finite, pixels, low) - low) / max(high - low, 1e-12)
    height, width = scaled.shape[1:]
    if max(height, width) > MAX_SIDE:
        factor = MAX_SIDE / max(height, width)
        size: Sequence[int] = [max(round(side * factor), 1) for side in (height, width)]
        scaled = F.interpolate(torch.from_numpy(scaled)[None], size=size, mode="area")[0].numpy()
    picture = (255 * scaled).round().astype(np.uint8)
    return picture[0] if len(picture) == 1 else np.ascontiguousarray(picture.transpose(1, 2, 0))
