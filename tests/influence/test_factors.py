"""Tests of computations on factors against explicit sums, in shapes that small networks do not have."""

import pytest
import torch

from lightning_pareto.influence.embedding import EmbeddingFactors
from lightning_pareto.influence.factors import FEW_SUMS, DenseFactors, DotProducts, EigenBasis, gram
from lightning_pareto.influence.memory import Scratch
from tests._asserts import assert_near
from tests._tolerances import RELATIVE

EXACT = RELATIVE[torch.float64]

# (samples, blocks, positions, inputs, outputs). In some it is cheaper to rotate the factors, in others the gradients.
SHAPES = [(5, 1, 1, 6, 4), (5, 1, 3, 140, 9), (5, 1, 2, 30, 300), (4, 3, 7, 5, 4), (4, 3, 1, 2, 1), (3, 1, 50, 6, 4)]


@pytest.fixture(params=["positions last", "positions first"])
def make(request):
    """Makes factors with the memory layout of a convolution or of a linear layer, all with the same scratch."""
    scratch = Scratch()

    def build(shape, seed=0):
        batch, blocks, positions, *sizes = shape
        generator = torch.Generator().manual_seed(seed)
        a, g = (torch.randn(batch, blocks, positions, n, generator=generator).double() for n in sizes)
        if request.param == "positions last":
            a, g = (x.transpose(2, 3).contiguous().transpose(2, 3) for x in (a, g))
        return DenseFactors(a, g, scratch)

    return build


def explicit_gradients(factors):
    return torch.einsum("brto,brti->broi", factors.g, factors.a)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_explicit_gradients(make, shape):
    factors, other = make(shape), make(shape, seed=1)
    gradients = explicit_gradients(factors)
    batch, blocks, _, inputs, outputs = shape
    kept = factors.gradients()
    other.dots(DotProducts(torch.randn(2, blocks, outputs, inputs).double()))  # shares the scratch
    assert_near(kept, gradients, EXACT)
    for found, x in zip(factors.covariances(), (factors.a, factors.g), strict=True):
        assert_near(found, torch.einsum("brti,brtj->rij", x, x), EXACT)
    directions, weights = torch.randn(3, blocks, outputs, inputs).double(), torch.randn(batch, 3).double()
    assert_near(factors.dots(DotProducts(directions)), torch.einsum("broi,droi->bd", gradients, directions), EXACT)
    for count in (FEW_SUMS, 3):
        sums = torch.ones(count, blocks, outputs, inputs).double()
        factors.add_weighted(sums, weights[:, :count])
        assert_near(sums, 1 + torch.einsum("broi,bd->droi", gradients, weights[:, :count]), EXACT)
    for count in (1, 2):
        cells, cell = torch.ones(count, blocks, outputs, inputs).double(), torch.arange(batch) % count
        factors.add_to(cells, cell)
        assert_near(cells, 1 + torch.stack([gradients[cell == k].sum(0) for k in range(count)]), EXACT)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("both", [True, False])
def test_squares_in_a_basis(make, shape, both):
    factors = make(shape)
    _, blocks, _, inputs, outputs = shape
    a, g = (torch.linalg.qr(torch.randn(blocks, n, n).double()).Q for n in (inputs, outputs))
    rotated = explicit_gradients(factors) @ a
    if both:
        rotated = g.transpose(1, 2) @ rotated
    assert_near(factors.squares(EigenBasis(a, g if both else None)), rotated.square().sum(0), EXACT)


@pytest.mark.parametrize("size", [1, 127, 128, 129, 300])
def test_gram_fills_the_whole_matrix(size):
    columns = torch.randn(2, size, 11).double()
    found = gram(columns)
    assert_near(found, columns @ columns.transpose(1, 2), EXACT)


def test_scratch_reuses_memory():
    scratch, like = Scratch(), torch.zeros(1)
    first = scratch.buffer("a", (4, 5), like)
    again = scratch.buffer("a", (3, 2), like)
    assert first.data_ptr() == again.data_ptr()
    assert again.shape == (3, 2)
    assert scratch.buffer("b", (4, 5), like).data_ptr() != first.data_ptr()
    assert scratch.buffer("a", (4, 5), like.double()).dtype == torch.float64
    assert scratch.buffer("a", (6, 6), like).shape == (6, 6)


def test_embedding_counts_only_positions_with_a_gradient():
    tokens = torch.tensor([[0, 2], [2, 2]])
    a = torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 3.0]]])
    assert EmbeddingFactors(tokens, a, 4).covariances()[1].tolist() == [[0, 0, 2, 0]]


@pytest.mark.parametrize("layout", ["by_gradient", "by_row", "by_input"])
def test_layouts_share_the_memory_of_the_directions(layout):
    directions = torch.randn(3, 1, 4, 5)
    products = DotProducts(directions.clone())
    found = getattr(products, layout)
    assert torch.equal(products.directions, directions)
    assert products.directions.untyped_storage().data_ptr() == found.untyped_storage().data_ptr()
    assert (len(products), products.numel) == (3, 60)
