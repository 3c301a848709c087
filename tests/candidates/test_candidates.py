"""Candidates by themselves: what they propose, and that it is what it claims to be."""

import pickle
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F

from lightning_pareto import Candidate, ClassBalanced, HeadRefit, InTurn, Shard, WeightedSteps
from lightning_pareto.candidates.evidence import as_candidates
from lightning_pareto.candidates.weighted_steps import weighted_gradients
from tests._asserts import assert_near
from tests._tolerances import RELATIVE, TWO_PROCESSES
from tests.candidates._evidence import CLASSES, evidence_of, mixture


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, CLASSES))


def fitted(x, y, module=None, steps=150):
    module = module or network()
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()
    module.zero_grad()
    return module


def with_values(module, values):
    changed = deepcopy(module)
    changed.load_state_dict(dict(values), strict=False)
    return changed


class Scale(nn.Module):
    """Multiplies logits, which changes no prediction."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, logits):
        return self.factor * logits


def accuracy(module, x, y):
    with torch.no_grad():
        right = module(x).argmax(1) == y
    return np.array([right[y == k].double().mean() for k in range(CLASSES)])


def losses(module, x, y):
    with torch.no_grad():
        each = F.cross_entropy(module(x), y, reduction="none")
    return torch.stack([each[y == k].mean() for k in range(CLASSES)])


def noisy():
    """A model fitted to labels of which many are wrong, clean validation data, and weights without the wrong ones."""
    x, given, true = mixture(600, 0, wrong=0.6)
    validation, fresh = mixture(400, 1), mixture(4000, 2)
    weights = (given == true).double()
    return fitted(x, given), (x, given), validation[::2], fresh[::2], weights / weights.mean()


class Shared(nn.Module):
    """A recurrent layer, which is looped over, grouped convolutions and an embedding."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.cell = nn.Embedding(6, 4), nn.GRU(4, 4, batch_first=True)
        self.mix, self.norm, self.head = nn.Conv1d(4, 4, 1, groups=2), nn.LayerNorm(4), nn.Linear(4, CLASSES)

    def forward(self, x):
        ids = (x.abs() * 2).long().clamp(max=5)
        found = self.cell(self.tokens(ids))[0].transpose(1, 2)
        return self.head(self.norm(self.mix(found).mean(dim=2)))


@pytest.mark.filterwarnings("ignore:.*parameter tensors are used in a way")
@pytest.mark.parametrize("make", [network, Shared])
def test_weighted_gradients_are_those_of_autograd(make):
    x, y, _ = mixture(90, 0)
    module, weights = make().double(), torch.rand(90, 2, generator=torch.Generator().manual_seed(3)).double()
    with evidence_of(module, (x.double(), y), (x[:30].double() + 1, y[:30])) as evidence:
        chosen = evidence.train.sample(60, seed=1)
        found = weighted_gradients(chosen, weights)
        parts = {n: p for layer in found for n, p in zip(layer.names, layer.unpack(found[layer]), strict=True)}
        few = list(chosen.indices)
    losses = F.cross_entropy(module(x[few].double()), y[few], reduction="none")
    for column in range(2):
        total = (weights[few, column] * losses).sum() / weights[few, column].sum()
        expected = torch.autograd.grad(total, module.parameters(), retain_graph=True)
        for (name, _), gradient in zip(module.named_parameters(), expected, strict=True):
            assert_near(parts[name][column], gradient, RELATIVE[torch.float64])


def test_evidence_reads_the_known_samples():
    x, y, _ = mixture(90, 0)
    module, known = network(), range(10, 40)
    with evidence_of(module, (x, y), (x + 1, y), known=known) as evidence:
        (logits, labels), outcome = evidence.read(), evidence.outcome()
    with torch.no_grad():
        expected = module(x + 1)[10:40].double()
    assert_near(logits, expected, RELATIVE[torch.float32])
    assert labels.tolist() == y[10:40].tolist() == outcome.category.tolist()
    assert outcome.predicted.tolist() == expected.argmax(dim=1).tolist()
    np.testing.assert_allclose(outcome.probability, expected.softmax(dim=1)[torch.arange(30), labels], rtol=1e-5)


def test_steps_undo_wrong_labels():
    module, train, validation, fresh, weights = noisy()
    before = accuracy(module, *fresh)
    with evidence_of(module, train, validation, weights=weights) as evidence:
        values = WeightedSteps().propose(evidence)
    after = accuracy(with_values(module, values), *fresh)
    assert after.mean() > before.mean() + 0.02
    assert after[0] > before[0] + 0.05, "the class whose labels were wrong"


def test_steps_stay_where_no_length_helps(monkeypatch):
    module, train, validation, _, weights = noisy()
    monkeypatch.setattr("lightning_pareto.candidates.weighted_steps.LENGTHS", (-30.0, 300.0))
    with evidence_of(module, train, validation, weights=weights) as evidence:
        assert WeightedSteps().propose(evidence) == {}


def test_steps_change_covered_parameters_only():
    module, train, validation, _, weights = noisy()
    module[0].requires_grad_(False)
    with evidence_of(module, train, validation, weights=weights) as evidence:
        values = WeightedSteps().propose(evidence)
    assert set(values) == {"2.weight", "2.bias"}


def test_refitted_head_helps_without_raising_a_loss():
    module, train, validation, fresh, _ = noisy()
    with evidence_of(module, train, validation) as evidence:
        values = HeadRefit().propose(evidence)
    refitted = with_values(module, values)
    assert set(values) == {"2.weight", "2.bias"}
    scales = torch.logspace(-1, 1, 400)
    colder = [nn.Sequential(module, Scale(scale)) for scale in scales]
    best = min(colder, key=lambda each: float(losses(each, *validation).mean()))
    assert (losses(refitted, *validation) <= losses(best, *validation) + 0.02).all()
    assert accuracy(refitted, *fresh).mean() > accuracy(module, *fresh).mean() + 0.02


def test_head_is_hardly_refitted_to_few_samples():
    x, y, _ = mixture(600, 0)
    module = fitted(x, y)
    few = mixture(24, 1)[::2]
    with evidence_of(module, (x, y), few) as evidence:
        refitted = with_values(module, HeadRefit().propose(evidence))
    fresh = mixture(4000, 2)[::2]
    assert abs(accuracy(refitted, *fresh).mean() - accuracy(module, *fresh).mean()) < 0.02


class Odd(nn.Module):
    """Ends in log-probabilities, in a product, or in a layer without a bias."""

    def __init__(self, end):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.end = nn.Linear(5, 8), nn.Linear(8, CLASSES, bias=end != "no bias"), end

    def forward(self, x):
        logits = self.head(torch.tanh(self.body(x)))
        if self.end == "log-probabilities":
            return logits.log_softmax(dim=1)
        return 2.0 * logits if self.end == "product" else logits


@pytest.mark.parametrize(
    ("end", "names"),
    [
        ("log-probabilities", {"head.weight", "head.bias"}),
        ("no bias", {"head.weight"}),
        ("product", set()),
    ],
)
def test_the_last_layer_is_the_one_that_makes_the_logits(end, names):
    x, y, _ = mixture(300, 0)
    module = fitted(x, y, Odd(end))
    with evidence_of(module, (x, y), mixture(100, 1)[::2]) as evidence:
        assert set(HeadRefit().propose(evidence)) == names


def test_frozen_last_layer_is_left_alone():
    module, train, validation, _, _ = noisy()
    module[2].requires_grad_(False)
    with evidence_of(module, train, validation) as evidence:
        assert HeadRefit().propose(evidence) == {}


def test_candidates_in_turn_start_from_one_another():
    module, train, validation, _, weights = noisy()
    with evidence_of(module, train, validation, weights=weights) as evidence:
        first = WeightedSteps().propose(evidence)
        module.load_state_dict(dict(first), strict=False)
        second = HeadRefit().propose(evidence)
    module = noisy()[0]
    with evidence_of(module, train, validation, weights=weights) as evidence:
        both = InTurn(WeightedSteps(), HeadRefit()).propose(evidence)
    expected = dict(first) | dict(second)
    assert both.keys() == expected.keys()
    for name, value in both.items():
        assert_near(value, expected[name], RELATIVE[torch.float32])


def test_only_known_samples_are_read():
    module, train, validation, _, _ = noisy()
    x, y = validation[0].clone(), validation[1]
    known = torch.arange(0, len(y), 3)
    unknown = torch.ones(len(y), dtype=torch.bool)
    unknown[known] = False
    proposals = []
    for shift in (0.0, 5.0):
        x[unknown] += shift
        with evidence_of(module, train, (x, y), known=known.tolist()) as evidence:
            proposals.append(HeadRefit().propose(evidence))
    for name, value in proposals[0].items():
        assert torch.equal(value, proposals[1][name])


def test_classes_are_balanced_unless_they_are_even():
    x, y, _ = mixture(300, 0)
    uneven = (y != 2) | (torch.arange(300) % 2 == 0)
    with evidence_of(network(), (x[uneven], y[uneven]), mixture(30, 1)[::2]) as evidence:
        weights = ClassBalanced().propose(evidence)
        half = ClassBalanced(power=0.5).propose(evidence)
        assert ClassBalanced(least=2.1).propose(evidence) == {}
    mass = torch.zeros(CLASSES, dtype=torch.float64).index_add(0, y[uneven], weights)
    assert_near(mass / mass[0], torch.ones(CLASSES, dtype=torch.float64), RELATIVE[torch.float64])
    assert_near(half / half[0], (weights / weights[0]).sqrt(), RELATIVE[torch.float64])


def test_weights_for_a_fit_are_no_part_of_candidates_in_turn():
    x, y, _ = mixture(300, 0)
    uneven = (y != 2) | (torch.arange(300) % 2 == 0)
    with (
        evidence_of(network(), (x[uneven], y[uneven]), mixture(30, 1)[::2]) as evidence,
        pytest.raises(TypeError, match="'classes balanced' proposes weights for a fit"),
    ):
        InTurn(ClassBalanced(), HeadRefit()).propose(evidence)


def test_functions_are_candidates():
    def half_the_bias(evidence):
        return {}

    (candidate,) = as_candidates([half_the_bias])
    assert isinstance(candidate, Candidate)
    assert candidate.name == "half the bias"
    assert "0x" not in repr(candidate), "an interrupted search finds its trials again"
    with pytest.raises(TypeError, match=r"a candidate has a name and propose\(evidence\), or is a function"):
        as_candidates(["steps"])


@pytest.mark.parametrize("options", [{"steps": 0}, {"damping": 0.0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        WeightedSteps(**options)


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    module, train, validation, _, weights = noisy()
    with evidence_of(module, train, validation, weights=weights, shard=Shard(rank, 2)) as evidence:
        found = [dict(candidate.propose(evidence)) for candidate in (WeightedSteps(steps=1), HeadRefit())]
    (folder / f"rank{rank}").write_bytes(pickle.dumps([{n: v.numpy() for n, v in part.items()} for part in found]))
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_propose_what_one_does(tmp_path):
    module, train, validation, _, weights = noisy()
    with evidence_of(module, train, validation, weights=weights) as evidence:
        alone = [dict(WeightedSteps(steps=1).propose(evidence))]
    module = noisy()[0]
    mp.start_processes(work, (tmp_path,), nprocs=2, start_method="fork")
    both = [pickle.loads((tmp_path / f"rank{rank}").read_bytes()) for rank in range(2)]
    for name, value in alone[0].items():
        assert_near(both[0][0][name], value.numpy(), TWO_PROCESSES)
    for first, second in zip(*both, strict=True):
        assert all(np.array_equal(first[name], second[name]) for name in first)
