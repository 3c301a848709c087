"""Per-sample gradients against one backward pass a sample."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_pareto.influence.gradients import GradientProbe, sample_gradients
from lightning_pareto.influence.layers import cover
from lightning_pareto.influence.measures import logit_gradient
from lightning_pareto.influence.task import ClassificationTask
from tests._asserts import assert_near
from tests._oracles import sample_gradient_loop
from tests._tolerances import RELATIVE

CLASSES = 3


class Pooled(nn.Module):
    """A layer under test, a nonlinearity that works in place, and a head."""

    def __init__(self, layer, features):
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(features, CLASSES)

    def forward(self, x):
        z = F.softplus(self.layer(x)).mul_(2)  # the product is in place on what follows the layer
        if isinstance(self.layer, nn.Conv2d):
            return self.head(z.flatten(2).mean(2))
        return self.head(z.flatten(1, -2).mean(1) if z.ndim > 2 else z)


class Repeated(nn.Module):
    """One module called several times, on inputs of different lengths."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        once = torch.tanh(self.layer(x))
        return self.head(torch.tanh(self.layer(once[:, :2])).mean(1) + once.mean(1))


def conv(**options):
    return Pooled(nn.Conv2d(4, 6, options.pop("kernel_size", 3), **options), 6), (4, 7, 6)


CASES = {
    "linear": lambda: (Pooled(nn.Linear(5, 4), 4), (5,)),
    "linear without bias": lambda: (Pooled(nn.Linear(5, 4, bias=False), 4), (5,)),
    "linear on tokens": lambda: (Pooled(nn.Linear(5, 4), 4), (6, 5)),
    "linear on a grid": lambda: (Pooled(nn.Linear(5, 4), 4), (3, 2, 5)),
    "repeated": lambda: (Repeated(), (3, 4)),
    "conv": conv,
    "conv without bias": lambda: conv(bias=False),
    "conv 1x1": lambda: conv(kernel_size=1),
    "conv oblong": lambda: conv(kernel_size=(3, 2), stride=(2, 1), padding=(2, 0)),
    "conv stride": lambda: conv(stride=2, padding=1),
    "conv dilation": lambda: conv(dilation=2, padding=2),
    "conv groups": lambda: conv(groups=2, padding=1),
    "conv depthwise": lambda: (Pooled(nn.Conv2d(4, 8, 3, groups=4), 8), (4, 7, 6)),
    "conv same": lambda: conv(kernel_size=(4, 3), padding="same"),
    "conv valid": lambda: conv(padding="valid"),
    "conv circular": lambda: conv(padding=1, padding_mode="circular"),
    "conv reflect": lambda: conv(padding=(2, 1), padding_mode="reflect", groups=2),
    "conv replicate same": lambda: conv(padding="same", dilation=2, padding_mode="replicate"),
}


def found_gradients(module, x, y):
    """{layer name: (B, R·O·I)} through the probe."""
    probe = GradientProbe(module, cover(module).layers, ClassificationTask())
    with probe.open():
        forward = probe.forward((x, y))
        signal = logit_gradient(ClassificationTask().loss, forward.logits, forward.targets)
        return {layer.name: sample_gradients(f).flatten(1) for layer, f in forward.backward(signal)}


def expected_gradients(module, x, y):
    """The same from a loop, the bias appended to each output's row of the weight."""
    loop = sample_gradient_loop(module, x, y)
    result = {}
    for name in {n.rpartition(".")[0] for n in loop}:
        parts = [loop[f"{name}.{p}"] for p in ("weight", "bias") if f"{name}.{p}" in loop]
        parts = [p[..., None] if p.ndim == 2 else p.flatten(2) for p in parts]
        result[name] = torch.cat(parts, dim=2).flatten(1)
    return result


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_matches_a_backward_pass_per_sample(case, dtype):
    torch.manual_seed(0)
    module, shape = CASES[case]()
    module.to(dtype)
    x, y = torch.randn(5, *shape, dtype=dtype), torch.randint(CLASSES, (5,))
    found, expected = found_gradients(module, x, y), expected_gradients(module, x, y)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert_near(gradient, expected[name], RELATIVE[dtype])


@pytest.mark.parametrize("frozen", ["layer.weight", "layer.bias", "head.weight"])
def test_frozen_parameters_are_left_out(frozen):
    torch.manual_seed(0)
    module, x, y = Pooled(nn.Linear(5, 4), 4).double(), torch.randn(5, 5).double(), torch.randint(CLASSES, (5,))
    module.get_parameter(frozen).requires_grad_(False)
    found, expected = found_gradients(module, x, y), expected_gradients(module, x, y)
    for name in expected:
        assert_near(found[name], expected[name], RELATIVE[torch.float64])


def test_leaves_grad_modes_and_hooks_as_they_were():
    module = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.BatchNorm1d(4).eval(), nn.Linear(4, CLASSES))
    modes = [m.training for m in module.modules()]
    found_gradients(module, torch.randn(5, 3), torch.randint(CLASSES, (5,)))
    assert all(p.grad is None for p in module.parameters())
    assert [m.training for m in module.modules()] == modes
    assert not any(m._forward_hooks for m in module.modules())


def test_a_shared_weight_is_reported_and_not_half_covered():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, CLASSES))
    module[1].weight = module[0].weight
    coverage = cover(module)
    assert [layer.name for layer in coverage.layers.values()] == ["2"]
    assert coverage.uncovered(coverage.layers.values()) == ["0.weight", "0.bias", "1.bias"]


def test_nothing_to_cover_is_an_error():
    with pytest.raises(ValueError, match="every parameter is frozen"):
        cover(nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(ValueError, match=r"no trainable nn\.Linear"):
        cover(nn.Embedding(3, 2))
