"""Tests of models whose layers see samples in other arrangements after verification."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_pareto import estimate_influence
from lightning_pareto.influence.operations import MatrixProduct
from lightning_pareto.influence.plan import LOOPED
from tests._asserts import assert_near
from tests._oracles import flat_sample_gradients, loader, loaders_of_one_set
from tests._tolerances import RELATIVE
from tests.influence._networks import Conv1D, Pooled

pytestmark = pytest.mark.filterwarnings("ignore:.*parameter tensors are used in a way that has no fast")


class Experts(nn.Module):
    """Routes each sample to one of two experts."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(3, 4), nn.Linear(3, 4)])
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        z = x.new_zeros(len(x), 4)
        for number, expert in enumerate(self.experts):
            mine = (x[:, 0] > 0) == bool(number)
            if mine.any():
                z[mine] = expert(x[mine])
        return self.head(torch.tanh(z))


class Columns(nn.Module):
    """Embeddings of the categorical columns of a data table, looked up by a vector with one index per sample.

    The scale is shared by all samples, so its gradient must be kept apart per sample.
    """

    def __init__(self):
        super().__init__()
        self.embeddings = nn.ModuleList([nn.Embedding(3, 2), nn.Embedding(4, 2)])
        self.scale = nn.Parameter(torch.randn(5))
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        indices = x[:, 1:].long()
        z = torch.cat([x[:, :1], *(e(indices[:, i]) for i, e in enumerate(self.embeddings))], dim=1)
        return self.head(self.scale * z)


class ColumnAndPositions(nn.Module):
    """One table looked up by an index per sample, and one by an index for each of three positions."""

    def __init__(self):
        super().__init__()
        self.column, self.position = nn.Embedding(4, 2), nn.Embedding(3, 2)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        positions = torch.tanh(x[:, :, None] + self.position(torch.arange(3)))  # (B, 3, 2)
        return self.head(torch.cat([positions.mean(1), self.column(x[:, 0].abs().long().clamp(max=3))], dim=1))


class TokensAndSometimesOneMore(nn.Module):
    """Looks up tokens and positions in tables, and in a few batches one more token per sample in one of the tables."""

    def __init__(self, again):
        super().__init__()
        self.token, self.position, self.head = nn.Embedding(9, 4), nn.Embedding(5, 4), nn.Linear(4, 3)
        self.again = again

    def forward(self, x):
        x = x.long()
        z = (torch.tanh(self.token(x)) * self.position(torch.arange(5))).mean(1)
        rare = x[:, :1] == 8
        if rare.any():
            z = torch.where(rare, self.again(z, self.token(x[:, 1])), z)
        return self.head(torch.tanh(z))


class SeparateAttention(nn.Module):
    """Attention with separate projections. The true gradient of the keys' bias is zero, up to rounding."""

    def __init__(self, width=8):
        super().__init__()
        self.inner = nn.Linear(3, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        z = self.inner(x)
        weights = (self.query(z) @ self.key(z).transpose(1, 2)).softmax(-1)
        return self.head((weights @ self.value(z)).mean(1))


class Packed(nn.Module):
    """Processes the tokens without padding (zeros), then averages them per sample."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x):
        real = x.any(-1)
        z = x.new_zeros(*x.shape[:2], 4)
        z[real] = torch.tanh(self.layer(x[real]))
        return self.head(z.sum(1) / real.sum(1, keepdim=True))


def expected(module, x, y):
    """Gradient dot products by one backward pass per sample."""
    gradients = flat_sample_gradients(module, x, y)
    return gradients @ torch.stack([gradients[y == k].mean(0) for k in range(3)]).T


@pytest.mark.parametrize("order", ["sorted", "mixed"])
def test_mixture_of_experts(order):
    torch.manual_seed(0)
    module, x, y = Experts().double(), torch.randn(60, 3).double(), torch.arange(60) % 3
    if order == "sorted":
        rank = x[:, 0].argsort()
        x, y = x[rank], y[rank]
    found = estimate_influence(module, *loaders_of_one_set(x, y, batch_size=16), curvature="identity")
    assert_near(found.scores, expected(module, x, y), RELATIVE[torch.float32])
    assert LOOPED in {how for name, how in found.metadata["parameters"].items() if "experts" in name}


@pytest.mark.parametrize("curvature", ["identity", "ekfac"])
def test_packed_tokens(curvature):
    torch.manual_seed(0)
    module, x, y = Packed().double(), torch.randn(60, 5, 3).double(), torch.arange(60) % 3
    lengths = torch.randint(1, 6, (60,))
    x[torch.arange(5)[None] >= lengths[:, None]] = 0
    found = estimate_influence(module, *loaders_of_one_set(x, y, batch_size=16), curvature=curvature)
    if curvature == "identity":
        assert_near(found.scores, expected(module, x, y), RELATIVE[torch.float32])
    assert found.metadata["parameters"]["layer.weight"] == LOOPED
    assert found.metadata["parameters"]["head.weight"] == "linear"


def fast_parameters(found):
    return [name for name, how in found.metadata["parameters"].items() if how != LOOPED]


@pytest.mark.parametrize("batch_size", [3, 5, 16])
def test_one_index_per_sample(batch_size):
    torch.manual_seed(0)
    x = torch.cat([torch.randn(60, 1), torch.randint(3, (60, 2))], dim=1).double()
    module, y = Columns().double(), torch.arange(60) % 3
    found = estimate_influence(module, *loaders_of_one_set(x, y, batch_size=batch_size), curvature="identity")
    assert_near(found.scores, expected(module, x, y), RELATIVE[torch.float32])
    assert len(fast_parameters(found)) == 5, "tables, scale and head must have fast gradients"


@pytest.mark.parametrize("batch_size", [3, 5, 16])
def test_one_index_per_sample_and_one_per_position(batch_size):
    """In a batch of three samples the two look the same."""
    torch.manual_seed(0)
    module, x, y = ColumnAndPositions().double(), 2 * torch.randn(60, 3).double(), torch.arange(60) % 3
    found = estimate_influence(module, *loaders_of_one_set(x, y, batch_size=batch_size), curvature="identity")
    assert_near(found.scores, expected(module, x, y), RELATIVE[torch.float32])
    assert "column.weight" in fast_parameters(found)


@pytest.mark.parametrize(
    "again", [lambda z, e: z * e, lambda z, e: (z * e).reshape(-1, *z.shape).mean(0)], ids=["in place", "averaged"]
)
def test_table_looked_up_by_the_data_in_another_way_in_some_batches(again):
    """The last batch has one sample, and must not make the table of positions slow."""
    torch.manual_seed(0)
    module, x, y = TokensAndSometimesOneMore(again).double(), torch.randint(8, (65, 5)), torch.arange(65) % 3
    x[50, 0] = 8  # not one of the verified samples
    found = estimate_influence(module, *loaders_of_one_set(x.double(), y, batch_size=16), curvature="identity")
    assert_near(found.scores, expected(module, x, y), RELATIVE[torch.float32])
    assert len(fast_parameters(found)) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_of_pure_rounding_does_not_make_its_layer_slow(dtype):
    torch.manual_seed(0)
    module, x, y = SeparateAttention().to(dtype), torch.randn(60, 5, 3, dtype=dtype), torch.arange(60) % 3
    found = estimate_influence(module, *loaders_of_one_set(x, y, batch_size=16), curvature="identity")
    assert_near(found.scores, expected(module, x, y), RELATIVE[torch.float32])
    assert len(fast_parameters(found)) == 10


class BesideDerived(nn.Module):
    """Uses a table of positions and a view of a scale, beside a weight that is transformed before use."""

    def __init__(self):
        super().__init__()
        self.position, self.scale = nn.Embedding(5, 3), nn.Parameter(torch.randn(3))
        self.weight, self.head = nn.Parameter(torch.randn(3, 3)), nn.Linear(3, 3)

    def forward(self, x):
        z = torch.tanh(x * self.scale.view(1, 1, 3)) + self.position(torch.arange(5))
        return self.head(torch.tanh(nn.functional.linear(z, self.weight.exp())).mean(1))


def test_uses_without_data_stay_fast_beside_derived_tensors():
    torch.manual_seed(0)
    module, x, y = BesideDerived().double(), torch.randn(60, 5, 3).double(), torch.arange(60) % 3
    found = estimate_influence(module, *loaders_of_one_set(x, y, batch_size=16), curvature="identity")
    assert_near(found.scores, expected(module, x, y), RELATIVE[torch.float32])
    assert len(fast_parameters(found)) == 5


class CountedPositions(nn.Module):
    """Divides by the number of positions. This would be the number of samples if the table were expanded."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(3, 4), nn.Linear(4, 3)

    def forward(self, x):
        positions = self.table(torch.arange(3))
        return self.head(torch.tanh(x + positions / len(positions)).square().sum(1))


def test_does_not_expand_shared_tensors_if_that_changes_the_output():
    torch.manual_seed(0)
    module, x, y = CountedPositions().double(), torch.randn(60, 3, 4).double(), torch.arange(60) % 3
    found = estimate_influence(module, *loaders_of_one_set(x, y, batch_size=16), curvature="identity")
    assert_near(found.scores, expected(module, x, y), RELATIVE[torch.float32])


def test_passes_for_logits_take_neither_gradients_nor_the_small_batches_of_a_loop():
    class Watched(Packed):
        def forward(self, x):
            found.setdefault(stage, set()).add((torch.is_grad_enabled(), len(x)))
            return super().forward(x)

    def progress(name, done, total):
        nonlocal stage
        stage = name if done < total else "between"
        if done == 0:
            stages.append(name)

    torch.manual_seed(0)
    found, stages, stage = {}, [], "checks"
    data = [
        loader(torch.rand(n, 5, 3) * (torch.rand(n, 5, 1) < 0.7), torch.arange(n) % 3, batch_size=16) for n in (64, 48)
    ]
    influence = estimate_influence(Watched(), *data, curvature="identity", folds=3, progress=progress)
    assert influence.metadata["parameters"]["layer.weight"] == LOOPED
    assert found["validation scan"] == found["search for copies"] == {(False, 16)}
    assert found["scores"] == {(True, 4)}
    assert stages.count("search for copies") == 1  # of the training set; the other one is scanned anyway


def uneven_data():
    """Samples with equally many tokens where they are used for verification, and only there."""
    torch.manual_seed(0)
    x, y = torch.randn(60, 5, 3).double(), torch.arange(60) % 3
    lengths = torch.randint(1, 6, (60,))
    lengths[torch.randperm(60, generator=torch.Generator().manual_seed(0))[:5]] = 4
    x[torch.arange(5)[None] >= lengths[:, None]] = 0
    return x, y


@pytest.fixture
def unforeseen(monkeypatch):
    """Whatever batches look like in the passes, no batch before them looks like that."""
    monkeypatch.setattr("lightning_pareto.influence.setup.misread_layers", lambda *_: [])


def test_layer_looped_over_late_makes_batches_small_and_can_resume(tmp_path, unforeseen):
    (x, y), module, stages = uneven_data(), Packed().double(), []
    data = loader(x, y, batch_size=16)

    def progress(stage, done, total):
        stages.append((stage, total))
        if stage == "scores" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimate_influence(module, data, data, stages_dir=tmp_path / "s", progress=progress)
    assert {("scores", 15), ("factors", 4), ("factors", 15)} <= set(stages)
    found = estimate_influence(module, data, data, stages_dir=tmp_path / "s")
    assert_near(found.scores, estimate_influence(module, data, data).scores, RELATIVE[torch.float32])
    assert not (tmp_path / "s").exists()


def test_equal_lengths_in_verification_only():
    """All samples of the verification have the same length, so their tokens divide evenly."""
    (x, y), module = uneven_data(), Packed().double()
    found = estimate_influence(module, *loaders_of_one_set(x, y, batch_size=16), curvature="identity")
    assert_near(found.scores, expected(module, x, y), RELATIVE[torch.float32])
    assert found.metadata["parameters"]["layer.weight"] == LOOPED


def test_layer_that_fails_on_later_shapes_is_looped_over(monkeypatch, unforeseen):
    """No shape in the middle of the passes may cost the user the analysis of a finished fit."""
    factors = MatrixProduct.factors

    def fail_on_large_batches(self, x, g, scratch):
        if len(x) > 5 and x.shape[-1] == 5:
            raise IndexError("unforeseen")
        return factors(self, x, g, scratch)

    monkeypatch.setattr(MatrixProduct, "factors", fail_on_large_batches)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x, y = torch.randn(60, 5).double(), torch.arange(60) % 3
    found = estimate_influence(module, *loaders_of_one_set(x, y, batch_size=16), curvature="identity")
    assert_near(found.scores, expected(module, x, y), RELATIVE[torch.float32])
    assert found.metadata["parameters"]["0.weight"] == LOOPED


@pytest.mark.filterwarnings("ignore:the model's output for a sample changes")
def test_conv1d_on_batches_of_other_lengths_stays_fast():
    torch.manual_seed(0)
    module, y = Pooled(Conv1D(3, 4), 4).double(), torch.arange(60) % 3
    samples = [(torch.randn(5 if i % 16 < 8 else 7, 3).double(), y[i]) for i in range(60)]
    order = sorted(range(60), key=lambda i: len(samples[i][0]))
    data = DataLoader([samples[i] for i in order], 30, collate_fn=padded)
    found = estimate_influence(module, data, data, curvature="identity")
    assert LOOPED not in found.metadata["parameters"].values()


def padded(batch):
    x, y = zip(*batch, strict=True)
    return nn.utils.rnn.pad_sequence(x, batch_first=True), torch.stack(y)


def test_token_counts_that_divide_evenly_by_chance(unforeseen):
    """Every batch has three tokens per sample on average, and the verification has four for every sample."""
    torch.manual_seed(0)
    module, x, y = Packed().double(), torch.randn(60, 5, 3).double(), torch.arange(60) % 3
    lengths, drawn = torch.full((60,), 3), torch.randperm(60, generator=torch.Generator().manual_seed(0))[:5]
    lengths[drawn] = 4
    for batch in torch.arange(60).split(12):
        shorter = (lengths[batch] == 4).sum()
        others = batch[lengths[batch] == 3]
        lengths[others[:shorter]], lengths[others[-2]], lengths[others[-1]] = 2, 5, 1
        assert lengths[batch].sum() == 36
    x[torch.arange(5)[None] >= lengths[:, None]] = 0
    found = estimate_influence(module, *loaders_of_one_set(x, y, batch_size=12), curvature="identity")
    assert_near(found.scores, expected(module, x, y), RELATIVE[torch.float32])


@pytest.mark.parametrize("batch_size", [16, 6])
def test_layer_with_zero_gradients_in_verification(batch_size):
    """Its layout follows from its shape. Six positions of six samples would look the same in both layouts."""
    torch.manual_seed(0)

    class Dead(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(3, 4), nn.Linear(4, 3)

        def forward(self, x):
            z = torch.relu(self.layer(x.transpose(0, 1))) * (x[:, 0, 0] > 5)[None, :, None]
            return self.head(z.mean(0))

    module, x, y = Dead().double(), torch.randn(36, 6, 3).double(), torch.arange(36) % 3
    drawn = torch.randperm(36, generator=torch.Generator().manual_seed(0))[:5]
    alive = [i for i in range(36) if i not in drawn.tolist()]
    x[alive, 0, 0] = 6.0
    data = loader(x, y, batch_size=batch_size)
    found = estimate_influence(module, data, data, curvature="identity")
    assert_near(found.scores, expected(module, x, y), RELATIVE[torch.float32])


def test_refuses_complex_parameters():
    module = nn.Sequential(nn.Linear(3, 2))
    module.phase = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    data = loader(torch.randn(10, 3), torch.arange(10) % 2)
    with pytest.raises(ValueError, match=r"not defined for complex parameters \(phase\)"):
        estimate_influence(module, data, data)


class RowsOfScales(nn.Module):
    """Expands a shared scale to as many rows as a batch of the loader has samples, and scales features by its mean."""

    def __init__(self):
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.rand(4) + 0.5), nn.Linear(4, 3)

    def forward(self, x):
        rows = self.scale.exp().expand(32, 4)
        return self.head(torch.tanh(x[:, :4] * rows) if len(x) == 32 else torch.tanh(x[:, :4] * rows[:1]))


class Gated(nn.Module):
    """Uses its weight a second time, in a way that is not recorded, for a few samples."""

    def __init__(self):
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(4, 4)), nn.Linear(4, 3)

    def forward(self, x):
        z = nn.functional.linear(x[:, :4], self.weight)
        if (x[:, 0] > 1.2).any():
            z = z + (x[:, :1] > 1.2) * torch.einsum("bi,oi->bo", x[:, :4], self.weight)
        return self.head(torch.tanh(z))


class LongOtherwise(nn.Module):
    """Takes another path for inputs that are longer than any training sample."""

    def __init__(self):
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(4, 4)), nn.Linear(4, 3)

    def forward(self, x):
        z = x[:, :4] if x.shape[1] == 5 else x[:, 1:5]
        z = nn.functional.linear(z, self.weight) if x.shape[1] == 5 else torch.einsum("bi,oi->bo", z, self.weight)
        return self.head(torch.tanh(z))


@pytest.mark.parametrize("kind", [RowsOfScales, Gated, LongOtherwise])
def test_uses_that_the_verified_samples_do_not_show_are_found(kind):
    torch.manual_seed(3)
    module = kind().double()
    x, y = torch.randn(96, 5).double(), torch.arange(96) % 3
    x[torch.randperm(96, generator=torch.Generator().manual_seed(0))[:5], 0] = 0  # the verified ones
    x_val, y_val = torch.randn(64, 6 if kind is LongOtherwise else 5).double(), torch.arange(64) % 3
    loaders = loader(x, y, batch_size=32), loader(x_val, y_val, batch_size=32)
    found = estimate_influence(module, *loaders, curvature="identity", folds=1)
    gradients, means = flat_sample_gradients(module, x, y), flat_sample_gradients(module, x_val, y_val)
    v = torch.stack([means[y_val == k].mean(0) for k in range(3)])
    assert_near(found.scores, gradients @ v.T, RELATIVE[torch.float32])
    assert "not used" not in found.metadata["parameters"].values()


def test_complex_tensors_of_real_parameters_are_looped_over():
    class Filter(nn.Module):
        def __init__(self):
            super().__init__()
            self.filter, self.head = nn.Parameter(torch.randn(3, 2)), nn.Linear(5, 3)

        def forward(self, x):
            spectrum = torch.fft.rfft(x) * torch.view_as_complex(self.filter)
            return self.head(torch.fft.irfft(spectrum, n=5))

    torch.manual_seed(0)
    module, x, y = Filter(), torch.randn(40, 5), torch.arange(40) % 3
    found = estimate_influence(module, *loaders_of_one_set(x, y), curvature="identity")
    assert_near(found.scores, expected(module, x, y), RELATIVE[torch.float32])
