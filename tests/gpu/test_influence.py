"""Per-sample gradients and influence on a GPU against those on the CPU."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_pareto import estimate_influence
from tests._asserts import assert_near
from tests._oracles import sample_gradient_loop
from tests._tolerances import GPU
from tests.influence._networks import FAST, SLOW
from tests.influence.test_gradients import network, probe_gradients

CLASSES = 4


def on_gpu(module):
    return copy.deepcopy(module).to("cuda")


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", [*FAST, *SLOW])
def test_gradients_match_a_backward_pass_per_sample_on_the_cpu(case, dtype):
    module, x, y = network((FAST | SLOW)[case], dtype)
    expected = sample_gradient_loop(module, x, y)
    found = probe_gradients(module.to("cuda"), x.to("cuda"), y.to("cuda"))
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert_near(gradient, expected[name], GPU[dtype])


def images(count, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % CLASSES
    x = torch.randn(count, 1, 8, 8, generator=generator, dtype=torch.float64) + y[:, None, None, None] / 2
    return TensorDataset(x.to(dtype), y)


def convolutional(dtype):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(24, CLASSES)).to(dtype).eval()


def loaders(dtype, batch_size=50):
    return (
        DataLoader(images(150, 1, dtype), batch_size, pin_memory=True),
        DataLoader(images(80, 2, dtype), batch_size, pin_memory=True),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("curvature", ["ekfac", "cg", "gauss_newton", "identity"])
def test_influence_matches_the_cpu(curvature, dtype):
    module = convolutional(dtype)
    options = {"curvature": curvature, "folds": 3, "tolerance": 1e-9 if dtype == torch.float64 else 1e-4}
    expected = estimate_influence(module, *loaders(dtype), **options)
    found = estimate_influence(on_gpu(module), *loaders(dtype), **options)
    assert_near(found.scores, expected.scores, GPU[dtype])
    assert_near(found.fold_scores, expected.fold_scores, GPU[dtype])


def test_running_out_of_gpu_memory_halves_the_batch():
    """A limit on this process that a batch of all samples exceeds gives the same influence, in smaller batches."""
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Conv2d(1, 256, 3, padding=1), nn.ReLU(), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(256, 4))
    module, sizes = on_gpu(wide.eval()), []
    handle = module.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
    data = DataLoader(images(20_000, 1, torch.float32), 20_000), DataLoader(images(80, 2, torch.float32), 80)
    expected = estimate_influence(module, *data, curvature="identity", folds=3)
    assert max(sizes) == 20_000
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    sizes.clear()
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 5e8) / total)
        found = estimate_influence(module, *data, curvature="identity", folds=3)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        handle.remove()
    assert sizes[-1] < 10_000
    assert_near(found.scores, expected.scores, GPU[torch.float32])
