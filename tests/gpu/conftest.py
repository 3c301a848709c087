"""Marks every test of this folder ``gpu``, skips it without a CUDA device, and fits on the GPU by default."""

from pathlib import Path

import pytest
import torch

from tests.integration import _models

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def on_the_gpu(monkeypatch):
    """Make the trainers of :mod:`tests.integration._models` use the GPU. Convolutions get full precision."""
    monkeypatch.setattr(_models, "ACCELERATOR", "gpu")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
