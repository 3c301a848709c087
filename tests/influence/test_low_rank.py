"""Directions as products of thin matrices: what is cut off, and what that changes."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from lightning_pareto import CurvatureError, Shard, estimate_influence
from lightning_pareto.influence.curvature.ekfac import EkfacCurvature
from lightning_pareto.influence.embedding import EmbeddingFactors
from lightning_pareto.influence.factors import DenseFactors
from lightning_pareto.influence.layers import select_layers
from lightning_pareto.influence.low_rank import LowRankProducts, truncate
from tests._asserts import assert_near
from tests._oracles import loader
from tests._tolerances import RELATIVE

EXACT = RELATIVE[torch.float64]


def decaying(count, outputs, inputs):
    """Matrices with singular values 1, 1/2, 1/4, …"""
    generator = torch.Generator().manual_seed(0)
    size = min(outputs, inputs)
    left, right = (
        torch.linalg.qr(torch.randn(count, n, size, generator=generator).double())[0] for n in (outputs, inputs)
    )
    return left * 0.5 ** torch.arange(size).double() @ right.transpose(1, 2)


@pytest.mark.parametrize(("outputs", "inputs"), [(60, 90), (90, 60)])
@pytest.mark.parametrize("rank", [3, 11])
def test_cuts_off_what_the_singular_value_decomposition_would(outputs, inputs, rank):
    matrices = decaying(4, outputs, inputs)
    energy = matrices.square().sum(dim=(1, 2))
    tail = (0.25 ** torch.arange(rank, 60, dtype=torch.float64)).sum()
    left, right = truncate(matrices, energy, 1.001 * tail.expand(4))
    assert left.shape == (4, outputs, rank)
    error = (matrices - left @ right.transpose(1, 2)).square().sum(dim=(1, 2))
    torch.testing.assert_close(error, tail.expand(4), rtol=1e-4, atol=0)
    assert_near(right.transpose(1, 2) @ right, torch.eye(rank).double().expand(4, -1, -1), EXACT)


def test_finds_more_columns_than_it_tries_first():
    matrices = torch.randn(3, 200, 40).double() @ torch.randn(3, 40, 300).double()
    energy = matrices.square().sum(dim=(1, 2))
    left, right = truncate(matrices, energy, 1e-12 * energy)
    assert left.shape[2] == 40
    assert_near(left @ right.transpose(1, 2), matrices, 1e-5)


def test_keeps_matrices_whole_that_it_cannot_halve():
    for shape in ((40, 40), (5, 9), (1, 60), (60, 1)):
        matrices = torch.randn(3, *shape)
        energy = matrices.square().sum(dim=(1, 2))
        assert truncate(matrices, energy, 1e-3 * energy) is None


def test_zeros_lose_nothing_and_change_no_other():
    matrices = decaying(3, 60, 90)
    matrices[1] = 0
    energy = matrices.square().sum(dim=(1, 2))
    left, right = truncate(matrices, energy, 0.01 * energy)
    found = left @ right.transpose(1, 2)
    assert not found[1].any()
    error = (matrices - found).square().sum(dim=(1, 2)) / energy
    assert 0.001 < error[0] < 0.015


@pytest.mark.parametrize("others", ["zero", "of rank one"])
def test_a_single_matrix_does_not_pay_for_the_others(others):
    matrices = torch.randn(128, 64, 1).double() @ torch.randn(128, 1, 96).double() * (others != "zero")
    matrices[1] = torch.randn(64, 96).double() @ torch.diag(0.8 ** torch.arange(96).double())
    energy = matrices.square().sum(dim=(1, 2))
    left, right = truncate(matrices, energy, 0.01 * energy)
    lost = (matrices - left @ right.transpose(1, 2)).square().sum(dim=(1, 2))[1] / energy[1]
    assert lost <= 0.02 * (1 + 1e-9)


def test_huge_matrices_do_not_overflow():
    matrices = 1e18 * decaying(3, 60, 90).float()
    energy = matrices.square().sum(dim=(1, 2))
    left, right = truncate(matrices, energy, 0.01 * energy)
    assert left.shape[2] < 10
    assert torch.isfinite(left).all()
    assert torch.isfinite(right).all()


@pytest.mark.parametrize("positions", [1, 2, 100])
def test_dot_products_are_those_of_the_matrices(positions):
    generator = torch.Generator().manual_seed(0)
    a, g = (torch.randn(5, 1, positions, n, generator=generator).double() for n in (30, 20))
    products = LowRankProducts(*(torch.randn(7, n, 2, generator=generator).double() for n in (20, 30)))
    directions = products.left @ products.right.transpose(1, 2)
    expected = torch.einsum("brto,brti,doi->bd", g, a, directions)
    assert_near(products.dots(DenseFactors(a, g)), expected, EXACT)
    assert (len(products), products.numel) == (7, 7 * 2 * 50)
    tokens = torch.randint(20, (5, positions), generator=generator)
    embedded = torch.einsum("bti,btdi->bd", a[:, 0], directions[:, tokens].permute(1, 2, 0, 3))
    assert_near(products.dots(EmbeddingFactors(tokens, a[:, 0], rows=20)), embedded, EXACT)


@pytest.fixture
def all_layers(monkeypatch):
    """Truncate directions of small layers too."""
    monkeypatch.setattr("lightning_pareto.influence.curvature.ekfac.LARGE", 0)


class Net(nn.Module):
    """Linear layers with and without positions, a convolution and an embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(40, 48)
        self.mix = nn.Conv1d(48, 64, 3, padding=1)
        self.hidden = nn.Linear(64, 64)
        self.head = nn.Linear(64, 3)

    def forward(self, tokens):
        x = torch.relu(self.mix(self.embedding(tokens).transpose(1, 2))).transpose(1, 2)
        return self.head(torch.tanh(self.hidden(x).mean(1)))


def problem():
    torch.manual_seed(0)
    module = Net()
    y = torch.arange(300) % 3
    x = torch.randint(40, (300, 6)) // 2 + 5 * y[:, None]
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    return module, loader(x[:200], y[:200], batch_size=50), loader(x[200:], y[200:], batch_size=50)


def correlations(found, expected):
    """Of the scores of every fold and category."""
    a, b = (each.fold_scores.swapaxes(1, 2).reshape(-1, 200) for each in (found, expected))
    return [np.corrcoef(*pair)[0, 1] for pair in zip(a, b, strict=True)]


@pytest.mark.parametrize("max_memory", [None, 2e-3], ids=["roomy", "tight"])
def test_scores_keep_a_high_correlation(all_layers, max_memory):
    module, *data = problem()
    whole = estimate_influence(module, *data, truncation=0.0)
    found = estimate_influence(module, *data, truncation=0.01, max_memory=max_memory)
    lost = [1 - each**2 for each in correlations(found, whole)]
    assert max(lost) > 1e-6, "something is cut off"
    assert np.mean(lost) < 0.02, "about the share that is allowed"
    assert 0.98 < found.metadata["truncation_correlation"] < 1
    assert "truncation_correlation" not in whole.metadata


def test_what_is_measured_is_the_correlation_with_whole_directions(all_layers, monkeypatch):
    module, *data = problem()
    monkeypatch.setattr("lightning_pareto.influence.scoring.CHECKED", 1000)
    monkeypatch.setattr("lightning_pareto.influence.scoring.CHECKED_SAMPLES", 200)
    found = estimate_influence(module, *data, truncation=0.05)
    lowest = min(correlations(found, estimate_influence(module, *data, truncation=0.0)))
    assert found.metadata["truncation_correlation"] == pytest.approx(lowest, abs=1e-6)


class Sure(Net):
    """Certain of class 0 where the first token is 39."""

    def forward(self, tokens):
        certain = torch.tensor([1e4, 0.0, 0.0])
        return torch.where(tokens[:, :1] == 39, certain, super().forward(tokens))


def test_zero_directions_are_not_compared(all_layers, monkeypatch):
    """A class that is predicted with certainty has no gradient."""
    torch.manual_seed(0)
    x, y = torch.randint(39, (150, 6)), torch.arange(150) % 3
    x_val = torch.where((y == 0)[:, None], 39, torch.randint(39, (150, 6)))
    monkeypatch.setattr("lightning_pareto.influence.scoring.CHECKED", 1000)
    found = estimate_influence(Sure(), loader(x, y, batch_size=50), loader(x_val, y, batch_size=50), folds=2)
    assert not found.fold_scores[:, :, 0].any()
    assert 0.9 < found.metadata["truncation_correlation"] <= 1


class Halves(nn.Module):
    """Positive samples and negative ones take different layers."""

    def __init__(self):
        super().__init__()
        self.positive, self.negative = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.positive(x) if x[0, 0] > 0 else self.negative(x)


def test_data_sets_that_reach_no_common_layer_are_refused():
    x, y = torch.rand(30, 4) + 0.1, torch.arange(30) % 3
    with pytest.raises(CurvatureError, match="depends on no covered parameter"):
        estimate_influence(Halves(), loader(x, y), loader(-x, y))


def _on_two(rank, path, max_memory):
    dist.init_process_group("gloo", f"file://{path}/store", rank=rank, world_size=2)
    module, *data = problem()
    found = estimate_influence(module, *data, shard=Shard(rank, 2), max_memory=max_memory)
    np.save(path / f"{rank}.npy", found.fold_scores)
    dist.destroy_process_group()


@pytest.mark.distributed
@pytest.mark.parametrize("max_memory", [None, 2e-3], ids=["roomy", "tight"])
def test_two_processes_get_the_same_scores(all_layers, tmp_path, max_memory):
    module, *data = problem()
    expected = estimate_influence(module, *data, max_memory=max_memory)
    mp.start_processes(_on_two, (tmp_path, max_memory), nprocs=2, start_method="fork")
    for rank in range(2):
        found = np.load(tmp_path / f"{rank}.npy")
        assert np.abs(found - expected.fold_scores).max() < 1e-3 * np.abs(expected.fold_scores).max()


def test_metric_is_that_of_the_eigenvalues_where_these_are_products():
    layer = select_layers(nn.Linear(6, 4))[0]
    rows, columns = torch.rand(2, 4).double() + 0.1, torch.rand(2, 7).double() + 0.1
    eigenvalues = rows[:, :, None] * columns[:, None]
    found = EkfacCurvature({}, {layer: eigenvalues}, damping=0.1)._metric(layer)
    assert_near(found[0][:, :, None] * found[1][:, None], eigenvalues.sqrt(), EXACT)
