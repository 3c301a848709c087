"""Tests of per-sample gradients against one backward pass per sample."""

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from lightning_pareto import estimate_influence
from lightning_pareto.influence.factors import DotProducts, EigenBasis
from lightning_pareto.influence.gradients import GradientProbe
from lightning_pareto.influence.layers import select_layers
from lightning_pareto.influence.measures import logit_gradient
from lightning_pareto.influence.task import BatchError, ClassificationTask
from lightning_pareto.influence.verification import verify
from tests._asserts import assert_near
from tests._oracles import flat_sample_gradients, loader, loaders_of_one_set, sample_gradient_loop
from tests._tolerances import RELATIVE
from tests.influence._networks import CLASSES, DERIVED, FAST, SLOW, OnePlusWeight, Pooled, Text

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

SAMPLES = 5


def network(case, dtype=torch.float64):
    """The module of a case in evaluation mode, inputs and targets."""
    torch.manual_seed(0)
    module, shape = case()
    module.to(dtype).eval()
    x = torch.randint(7, (SAMPLES, shape)) if isinstance(shape, int) else torch.randn(SAMPLES, *shape, dtype=dtype)
    return module, x, torch.randint(CLASSES, (SAMPLES,))


def verified_probe(module, x, y):
    probe = GradientProbe(module, select_layers(module), ClassificationTask())
    with probe.open():
        verify(probe, (x[:3], y[:3]))
    return probe


def probe_gradients(module, x, y, probe=None):
    """Per-sample gradients from the probe, {parameter name: (B, *shape)}."""
    probe = probe or verified_probe(module, x, y)
    found = {}
    with probe.open():
        forward = probe.forward((x, y))
        signal = logit_gradient(ClassificationTask().loss, forward.logits, forward.targets)
        for layer, part, factors in forward.backward(signal):
            for name, p, g in zip(layer.names, layer.parameters, layer.unpack(factors.gradients()), strict=True):
                found.setdefault(name, torch.zeros(len(y), *p.shape, dtype=g.dtype))[part] = g
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", FAST)
def test_matches_a_backward_pass_per_sample(case, dtype):
    module, x, y = network(FAST[case], dtype)
    probe = verified_probe(module, x, y)
    assert not probe.plan.looped
    assert bool(probe.plan.derived) == (case in DERIVED)
    found, expected = probe_gradients(module, x, y, probe), sample_gradient_loop(module, x, y)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert_near(gradient, expected[name], RELATIVE[dtype])


@pytest.mark.filterwarnings("ignore:RNN module weights")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", SLOW)
def test_layers_without_fast_gradients_are_looped_over(case, dtype):
    module, x, y = network(SLOW[case], dtype)
    probe = verified_probe(module, x, y)
    assert probe.plan.looped
    assert "head" in [layer.name for layer in probe.plan.factored]
    found, expected = probe_gradients(module, x, y, probe), sample_gradient_loop(module, x, y)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert_near(gradient, expected[name], RELATIVE[dtype])


@pytest.mark.parametrize("case", FAST)
def test_factors_agree_with_gradients(case):
    """Sums by cell, squares in a basis, and dot products, each compared with the gradients themselves."""
    module, x, y = network(FAST[case])
    with (probe := verified_probe(module, x, y)).open():
        forward = probe.forward((x, y))
        signal = logit_gradient(ClassificationTask().loss, forward.logits, forward.targets)
        cell = torch.tensor([2, 0, 2, 1, 0])
        for _layer, part, factors in forward.backward(signal):
            gradients = factors.gradients()
            directions = torch.randn(4, *gradients.shape[1:], dtype=torch.float64)
            expected = gradients.flatten(1) @ directions.flatten(1).T
            assert_near(factors.dots(DotProducts(directions)), expected, 1e-10)
            sums = factors.zeros(3)
            factors.add_to(sums, cell[part])
            assert_near(sums, torch.stack([gradients[cell[part] == c].sum(0) for c in range(3)]), 1e-10)
            a, g = factors.covariances()
            basis = EigenBasis(torch.linalg.eigh(a)[1], torch.linalg.eigh(g)[1] if g.ndim == 3 else None)
            assert_near(factors.squares(basis), basis.rotate(gradients).square().sum(0), 1e-10)
            assert_near(basis.restore(basis.rotate(gradients)), gradients, 1e-10)


@pytest.mark.parametrize("frozen", ["layer.weight", "layer.bias", "head.weight"])
@pytest.mark.parametrize("case", ["linear on tokens", "conv groups", "layer norm of two dimensions", "batch norm 2d"])
def test_frozen_parameters_are_left_out(case, frozen):
    module, x, y = network(FAST[case])
    module.get_parameter(frozen).requires_grad_(False)
    found, expected = probe_gradients(module, x, y), sample_gradient_loop(module, x, y)
    assert found.keys() == expected.keys()
    assert frozen not in found
    for name in expected:
        assert_near(found[name], expected[name], RELATIVE[torch.float64])


def test_selects_parameters_by_name():
    module, _x, _y = network(FAST["transformer"])
    layers = select_layers(module, ["head.*", "*.linear1.weight"])
    assert [name for layer in layers for name in layer.names] == [
        "layer.layers.0.linear1.weight",
        "layer.layers.1.linear1.weight",
        "head.weight",
        "head.bias",
    ]


def test_same_gradients_in_parts_of_the_batch():
    module, x, y = network(FAST["conv groups"])
    whole = probe_gradients(module, x, y)
    probe = verified_probe(module, x, y)
    probe.memory.elements = 3_000
    with probe.open():
        forward = probe.forward((x, y))
        cut = [part for layer, part, _ in forward.backward(torch.ones_like(forward.logits)) if layer.name == "layer"]
    assert 1 < len(cut) <= SAMPLES
    parts = probe_gradients(module, x, y, probe)
    for name, gradient in whole.items():
        assert_near(parts[name], gradient, 1e-10)


def test_leaves_grad_and_modes_and_hooks_unchanged():
    module = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.BatchNorm1d(4).eval(), nn.Linear(4, CLASSES))
    modes = [m.training for m in module.modules()]
    module[0].weight.grad = torch.ones(4, 3)
    data = loader(torch.randn(15, 3), torch.arange(15) % CLASSES)
    estimate_influence(module, data, data, folds=1)
    assert torch.equal(module[0].weight.grad, torch.ones(4, 3))
    assert all(p.grad is None for p in module.parameters() if p is not module[0].weight)
    assert [m.training for m in module.modules()] == modes
    assert not any(m._forward_hooks for m in module.modules())


def test_error_names_the_layer_that_mixes_samples_later():
    """The samples of this layer were apart only in the batch used for verification."""

    class Routed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(3, 3), nn.Linear(3, CLASSES)

        def forward(self, x):
            z = torch.cat([self.layer(x[:4]), x[4:]])
            return self.head(z)

    module, x, y = Routed(), torch.randn(5, 3), torch.randint(CLASSES, (5,))
    with pytest.raises(BatchError, match=r"layer 'layer' was called on a tensor of shape \(4, 3\) for 5 samples"):
        probe_gradients(module, x, y)


def test_padding_rows_have_no_gradient():
    module = Text(padding_idx=2).double().eval()
    x, y = torch.full((3, 4), 2), torch.tensor([0, 1, 2])
    assert not probe_gradients(module, x, y)["layer.weight"].any()


def test_refuses_a_module_with_nothing_to_cover():
    with pytest.raises(ValueError, match="every parameter is frozen"):
        select_layers(nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(ValueError, match=r"no trainable parameter matches \['hed\.\*'\]; their names are \['layer\.w"):
        select_layers(Pooled(nn.Linear(2, 2), 2), ["hed.*", "layer.*"])


class Checkpointed(nn.Module):
    """Computes the activations of a part again in the backward pass."""

    def __init__(self, layer, use_reentrant=False):
        super().__init__()
        self.layer, self.head, self.use_reentrant = layer, nn.Linear(4, CLASSES), use_reentrant

    def forward(self, x):
        x = x.clone().requires_grad_()
        z = torch.utils.checkpoint.checkpoint(self.layer, x, use_reentrant=self.use_reentrant)
        return self.head(torch.tanh(z).mean(1))


class WithPositions(nn.Embedding):
    """Adds an embedding of the positions."""

    def forward(self, x):
        return x + torch.sigmoid(super().forward(torch.arange(x.shape[1])))


def test_refuses_reentrant_checkpointing():
    with pytest.raises(ValueError, match="Pass use_reentrant=False"):
        probe_gradients(Checkpointed(nn.Linear(4, 4), True), torch.randn(5, 3, 4), torch.randint(CLASSES, (5,)))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Linear(4, 4),
        lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
        lambda: WithPositions(3, 4),
        lambda: OnePlusWeight(4),
    ],
)
def test_checkpointed_layers_are_recorded(layer):
    torch.manual_seed(0)
    module, x, y = Checkpointed(layer()).double().eval(), torch.randn(5, 3, 4).double(), torch.randint(CLASSES, (5,))
    probe = verified_probe(module, x, y)
    assert not probe.plan.looped
    found, expected = probe_gradients(module, x, y, probe), sample_gradient_loop(module, x, y)
    for name, gradient in found.items():
        assert_near(gradient, expected[name], RELATIVE[torch.float64])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", ["linear on tokens", "layer norm", "embedding", "class token, positions and scale"])
def test_half_precision_is_close(case, dtype):
    module, x, y = network(FAST[case], torch.float32)
    probe = GradientProbe(
        module, select_layers(module), ClassificationTask(), lambda: torch.autocast("cpu", dtype=dtype)
    )
    with probe.open():
        verify(probe, (x, y))
    assert not probe.plan.looped
    found, expected = probe_gradients(module, x, y, probe), sample_gradient_loop(module, x, y)
    for name, gradient in found.items():
        assert_near(gradient, expected[name], 0.05)


def test_small_gradients_do_not_underflow_in_float16():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, CLASSES))
    x, y = torch.randn(5, 3), torch.randint(CLASSES, (5,))
    probe = GradientProbe(
        module, select_layers(module), ClassificationTask(), lambda: torch.autocast("cpu", dtype=torch.float16)
    )
    with probe.open():
        forward = probe.forward((x, y))
        signal = 1e-7 * torch.randn(5, CLASSES)
        for _, _, factors in forward.backward(signal):
            assert factors.gradients().flatten(1).any(dim=1).all()


def test_sparse_embedding():
    module, x, y = network(FAST["embedding"])
    found = probe_gradients(module, x, y)
    sparse = Text(sparse=True).double().eval()
    sparse.load_state_dict(module.state_dict())
    again = probe_gradients(sparse, x, y)
    for name, gradient in found.items():
        assert_near(again[name], gradient, 1e-12)


def test_release_frees_the_graph():
    module, x, y = network(FAST["linear on tokens"])
    with (probe := verified_probe(module, x, y)).open():
        forward = probe.forward((x, y))
        forward.release()
    assert forward.logits.grad_fn is None
    assert not list(forward.backward(torch.ones(SAMPLES, CLASSES)))


class Folding(nn.Linear):
    """An adapter that adds its low-rank part to the frozen weight in ``eval()``, as those of language models do."""

    def __init__(self):
        super().__init__(3, 3)
        self.requires_grad_(False)
        self.down, self.up, self.folded = nn.Parameter(torch.randn(1, 3)), nn.Parameter(torch.randn(3, 1)), False

    def train(self, mode=True):
        if mode == self.folded:
            self.weight.data += (-1 if mode else 1) * (self.up @ self.down).detach()
            self.folded = not mode
        return super().train(mode)

    def forward(self, x):
        plain = nn.functional.linear(x, self.weight, self.bias)
        low_rank = nn.functional.linear(nn.functional.linear(x, self.down), self.up)
        return plain if self.folded else plain + low_rank


def test_adapter_that_folds_itself_in_eval_is_covered_and_left_as_it_was():
    torch.manual_seed(0)
    module, x, y = Folding().double(), torch.randn(30, 3).double(), torch.arange(30) % 3
    weight = module.weight.clone()
    found = estimate_influence(module, *loaders_of_one_set(x, y), curvature="identity")
    assert torch.equal(module.weight, weight)
    assert module.training
    gradients = flat_sample_gradients(module, x, y)
    expected = gradients @ torch.stack([gradients[y == k].mean(0) for k in range(3)]).T
    assert_near(found.scores, expected, RELATIVE[torch.float32])


class Asks(nn.Module):
    """Remembers whether cuDNN was enabled in its forward passes."""

    def __init__(self, recurrent):
        super().__init__()
        self.body = nn.GRU(3, 3, batch_first=True) if recurrent else nn.Linear(3, 3)
        self.enabled = set()

    def forward(self, x):
        self.enabled.add(torch.backends.cudnn.enabled)
        out = self.body(x[:, None])
        return (out[0] if isinstance(out, tuple) else out)[:, 0]


@pytest.mark.filterwarnings("ignore:.* parameter tensors are used in a way")
@pytest.mark.parametrize("recurrent", [True, False])
def test_recurrent_layers_run_without_cudnn(recurrent):
    """Its recurrent layers have no backward pass in evaluation mode."""
    module, data = Asks(recurrent), loader(torch.randn(6, 3), torch.arange(6) % 3)
    estimate_influence(module, data, data, curvature="identity", folds=3)
    assert module.enabled == {not recurrent}
    assert torch.backends.cudnn.enabled


class Opaque:
    """A part of a batch that nothing can look into."""

    def __init__(self, x, y):
        self.x, self.y = x, y


class TwoInputs(nn.Module):
    """Scales one input by hand, and passes the other one through an ordinary layer."""

    def __init__(self):
        super().__init__()
        self.scale, self.layer, self.head = OnePlusWeight(5), nn.Linear(5, 5), nn.Linear(5, CLASSES)

    def forward(self, seen, hidden):
        return self.head(torch.tanh(self.scale(seen))) + self.layer(hidden)[:, :CLASSES]


def test_layers_are_not_lost_if_a_part_of_the_batch_is_opaque():
    torch.manual_seed(0)
    module = TwoInputs().double()
    seen, hidden = torch.randn(2, SAMPLES, 5).double()
    y = torch.randint(CLASSES, (SAMPLES,))
    task = ClassificationTask(lambda module, batch: module(batch[0], batch[1].x), lambda batch: batch[1].y)
    probe = GradientProbe(module, select_layers(module), task)
    with probe.open():
        verify(probe, (seen[:3], Opaque(hidden[:3], y[:3])))
        forward = probe.forward((seen, Opaque(hidden, y)))
        signal = logit_gradient(task.loss, forward.logits, forward.targets)
        found = {name for layer, _, _ in forward.backward(signal) for name in layer.names}
    assert found == {name for name, _ in module.named_parameters()}


class Gain(nn.Module):
    """Expands a scale to as many features as there may be samples, and uses it in one of several ways."""

    def __init__(self, use):
        super().__init__()
        self.use, self.gain, self.head = use, nn.Parameter(torch.randn(1)), nn.Linear(SAMPLES, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.use(x, self.gain)))


@pytest.mark.filterwarnings("ignore:.*no fast per-sample gradient")  # slow is right, too
@pytest.mark.parametrize(
    "use",
    [
        lambda x, gain: x * gain.expand(SAMPLES),
        lambda x, gain: x * gain.repeat(SAMPLES),
        lambda x, gain: nn.functional.linear(x, gain.exp()[None].expand(SAMPLES, SAMPLES)),
        lambda x, gain: nn.functional.linear(x, torch.eye(SAMPLES).double(), gain.expand(SAMPLES)),
    ],
)
def test_parameter_expanded_to_as_many_features_as_samples(use):
    torch.manual_seed(0)
    module, x = Gain(use).double(), torch.randn(SAMPLES, SAMPLES).double()
    y = torch.randint(CLASSES, (SAMPLES,))
    both = x.repeat(2, 1), y.repeat(2)
    for samples in (SAMPLES, 1, 2 * SAMPLES):
        found = estimate_influence(module, *loaders_of_one_set(*both, batch_size=samples), curvature="identity")
        gradients = flat_sample_gradients(module, *both)
        expected = gradients @ torch.stack([gradients[both[1] == k].mean(0) for k in range(CLASSES)]).T
        assert_near(found.scores, torch.nan_to_num(expected), RELATIVE[torch.float32])
