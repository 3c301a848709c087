"""Tests of influence estimates against exact Hessians, retraining and invariances."""

import copy
import re

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from lightning_pareto import BatchError, ClassificationTask, InfluenceMatrix, estimate_influence
from lightning_pareto.datasets import gaussian_classes
from lightning_pareto.influence.curvature import CurvatureError
from tests._asserts import assert_near
from tests._oracles import class_losses, exact_influence, fit_logistic, loader
from tests._tolerances import RELATIVE

CLASSES = 4


@pytest.fixture(scope="module")
def logistic():
    """A fitted logistic regression with its data, all in float64."""
    train, val = gaussian_classes(200, noise=0.2, seed=1), gaussian_classes(300, seed=2)
    x, x_val = train.inputs.double(), val.inputs.double()
    return fit_logistic(x, train.given, CLASSES), x, train.given, x_val, val.given


@pytest.fixture
def network():
    """A small untrained convolutional net with data."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 5), nn.Dropout(0.5))
    module.append(nn.Linear(5, CLASSES))
    return module, torch.randn(50, 1, 6, 6), torch.arange(50) % CLASSES, torch.randn(30, 1, 6, 6), torch.arange(30) % 4


def estimate(problem, train_options=None, **options) -> InfluenceMatrix:
    module, x, y, x_val, y_val = problem
    return estimate_influence(module, loader(x, y, **(train_options or {})), loader(x_val, y_val), **options)


@pytest.mark.parametrize("damping", [1e-3, 0.1])
def test_gauss_newton_is_exact_for_logistic_regression(logistic, damping):
    found = estimate(logistic, curvature="gauss_newton", damping=damping)
    assert_near(found.scores, exact_influence(*logistic, CLASSES, damping), RELATIVE[torch.float32])


def test_predicts_leave_one_out_retraining(logistic):
    module, x, y, x_val, y_val = logistic
    exact = estimate(logistic, curvature="gauss_newton", damping=1e-6).scores
    ekfac = estimate(logistic, curvature="ekfac", damping=1e-3).scores
    before = class_losses(module, x_val, y_val, CLASSES)
    left_out = np.random.default_rng(0).permutation(len(y))[:40]
    rises = []
    for i in left_out:
        weights = torch.ones(len(y), dtype=torch.float64)
        weights[i] = 0
        rises.append(class_losses(fit_logistic(x, y, CLASSES, weights), x_val, y_val, CLASSES) - before)
    measured = np.array(rises) * len(y)
    for k in range(CLASSES):
        assert spearmanr(exact[left_out, k], measured[:, k]).statistic >= 0.99
        # the curvature of overlapping classes is not a Kronecker product
        assert spearmanr(ekfac[left_out, k], measured[:, k]).statistic >= 0.7
    assert abs(np.polyfit(exact[left_out].ravel(), measured.ravel(), 1)[0] - 1) < 0.1, "scale, not only rank"


def test_ekfac_predicts_leave_one_out_retraining_of_binary_classifier():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(600) % 2
    x = torch.randn(600, 5, generator=generator, dtype=torch.float64)
    x[:, 0] += 2 * y - 1
    train, val = (x[:200], y[:200]), (x[200:], y[200:])
    module = fit_logistic(*train, 2, l2=1e-3)
    scores = estimate((module, *train, *val), damping=0.02).scores
    left_out = np.random.default_rng(0).permutation(200)[:30]
    before, rises = class_losses(module, *val, 2), []
    for i in left_out:
        weights = torch.ones(200, dtype=torch.float64)
        weights[i] = 0
        rises.append(class_losses(fit_logistic(*train, 2, weights, l2=1e-3), *val, 2) - before)
    for k in range(2):
        assert spearmanr(scores[left_out, k], np.array(rises)[:, k]).statistic >= 0.95


def test_conjugate_gradients_agree_with_gauss_newton(logistic):
    found = estimate(logistic, curvature="cg", tolerance=1e-8)
    assert_near(found.scores, estimate(logistic, curvature="gauss_newton").scores, 1e-5)


def test_ekfac_is_closer_to_exact_than_no_curvature(logistic):
    exact = exact_influence(*logistic, CLASSES, 0.1).ravel()
    agreement = {
        name: np.corrcoef(estimate(logistic, curvature=name).scores.ravel(), exact)[0, 1]
        for name in ("ekfac", "identity")
    }
    assert agreement["ekfac"] > max(0.95, agreement["identity"])


@pytest.mark.parametrize(
    "train_options",
    [{"batch_size": 7}, {"shuffle": True}, {"drop_last": True, "batch_size": 30}, {"num_workers": 1}],
    ids=str,
)
def test_scores_do_not_depend_on_loader_options(network, train_options):
    expected, found = estimate(network), estimate(network, train_options)
    assert_near(found.scores, expected.scores, 1e-4)  # float32 sums in another order change the eigenbasis
    np.testing.assert_array_equal(found.labels, network[2])


def test_is_bit_identical_when_repeated_and_leaves_no_trace(network):
    module = network[0]
    module.train()
    state, random = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    first, second = estimate(network, {"shuffle": True}), estimate(network, {"shuffle": True})
    np.testing.assert_array_equal(first.scores, second.scores)
    assert all(m.training for m in module.modules())
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_rows_follow_the_samples_and_columns_the_classes(network):
    module, x, y, x_val, y_val = network
    order = torch.randperm(50)
    identity = {"curvature": "identity"}
    assert_near(
        estimate((module, x[order], y[order], x_val, y_val), **identity).scores,
        estimate(network, **identity).scores[order],
        RELATIVE[torch.float32],
    )
    relabelled = copy.deepcopy(module)
    relabelled[-1].weight.data = module[-1].weight.data.flip(0)
    relabelled[-1].bias.data = module[-1].bias.data.flip(0)
    found = estimate((relabelled, x, 3 - y, x_val, 3 - y_val), **identity)
    assert_near(found.scores[:, ::-1].copy(), estimate(network, **identity).scores, RELATIVE[torch.float32])


def test_folds_are_balanced_and_average_to_the_scores(network):
    found = estimate(network, folds=3)
    assert found.fold_scores.shape == (3, 50, CLASSES)
    share = found.fold_support / found.fold_support.sum(axis=0)
    np.testing.assert_allclose(np.einsum("fnk,fk->nk", found.fold_scores, share), found.scores, atol=1e-5)
    assert np.ptp(found.fold_support, axis=0).max() <= 1
    assert_near(estimate(network, folds=1).scores, found.scores, RELATIVE[torch.float32])


def test_soft_error_measure(network):
    module, x, y, x_val, y_val = network
    found = estimate(network, curvature="identity", measure="soft_error").scores
    module.eval()
    p = module(x_val).softmax(1)[torch.arange(30), y_val]
    v = torch.autograd.grad((1 - p)[y_val == 2].mean(), list(module.parameters()))
    g = torch.autograd.grad(nn.functional.cross_entropy(module(x[4:5]), y[4:5]), list(module.parameters()))
    assert_near(found[4, 2], sum((a * b).sum() for a, b in zip(v, g, strict=True)), 1e-4)


def test_categories_can_be_any_groups(network):
    x_val = network[3]
    found = estimate(network, categories=lambda b: (b[0].mean((1, 2, 3)) > 0).long(), category_names=["dark", "light"])
    assert found.scores.shape == (50, 2)
    assert found.category_names == ("dark", "light")
    assert found.support.tolist() == [int((x_val.mean((1, 2, 3)) <= 0).sum()), int((x_val.mean((1, 2, 3)) > 0).sum())]


def test_dict_batches_with_logits_attribute():
    class Output:
        def __init__(self, logits):
            self.logits = logits

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, features):
            return Output(self.head(features))

    class Dicts(Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, i):
            return {"features": torch.full((3,), float(i)), "labels": i % 2}

    data = DataLoader(Dicts(), batch_size=5)
    assert estimate_influence(Model(), data, data).scores.shape == (12, 2)


def test_task_reads_other_batches():
    data = DataLoader([(i % 2, torch.full((3,), float(i)), "note") for i in range(12)], batch_size=5)
    module = nn.Linear(3, 2)
    with pytest.raises(BatchError, match=r"list of length 3(.|\n)*ClassificationTask\("):
        estimate_influence(module, data, data)
    task = ClassificationTask(logits=lambda m, batch: m(batch[1]), targets=lambda batch: batch[0])
    assert estimate_influence(module, data, data, task=task).scores.shape == (12, 2)


def test_absent_class_is_named_and_left_out(network):
    module, x, y, x_val, y_val = network
    keep = y_val != 1
    with pytest.warns(UserWarning, match="no validation samples of dog"):
        found = estimate((module, x, y, x_val[keep], y_val[keep]), category_names=["cat", "dog", "cow", "hen"])
    assert found.present.tolist() == [True, False, True, True]
    assert np.isnan(found.scores[:, 1]).all()
    assert found.support[1] == 0


def test_metadata_covers_every_parameter():
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2), nn.Identity())
    module[3].extra = nn.Linear(2, 2)
    module[0].bias.requires_grad_(False)
    data = loader(torch.randn(10, 3), torch.arange(10) % 2)
    with pytest.warns(UserWarning, match=r"2 parameter tensors have no influence \(3\.extra\.weight, 3\.extra\.bias\)"):
        found = estimate_influence(module, data, data, layers=["[01].*", "3.*"])
    assert found.metadata["parameters"] == {
        "0.weight": "linear",
        "1.weight": "normalisation",
        "1.bias": "normalisation",
        "3.extra.weight": "not used",
        "3.extra.bias": "not used",
        "2.weight": "left out",
        "2.bias": "left out",
    }


class Interactions(nn.Linear):
    """A linear layer that is the module itself, and a term without a fast gradient."""

    def __init__(self):
        super().__init__(3, 2)
        self.interactions = nn.Bilinear(3, 3, 2, bias=False)

    def forward(self, x):
        return super().forward(x) + self.interactions(x, x)


@pytest.mark.parametrize(
    ("layers", "advice"), [(None, ["!interactions.*"]), (["*weight"], ["*weight", "!interactions.*"])], ids=str
)
def test_advice_about_slow_parameters_leaves_them_out_and_nothing_else(layers, advice):
    data, options = loader(torch.randn(20, 3), torch.arange(20) % 2), {"curvature": "identity", "layers": layers}
    with pytest.warns(UserWarning, match=re.escape(f"To leave them out: layers={advice}")):
        slow = estimate_influence(Interactions(), data, data, **options)
    fast = estimate_influence(Interactions(), data, data, **options | {"layers": advice})
    assert fast.metadata["parameters"] == slow.metadata["parameters"] | {"interactions.weight": "left out"}


def test_no_advice_to_leave_out_every_parameter():
    data = loader(torch.randn(20, 3), torch.arange(20) % 2)
    task = ClassificationTask(logits=lambda m, batch: m(batch[0], batch[0]))
    with pytest.warns(UserWarning, match="no fast per-sample gradient") as found:
        estimate_influence(nn.Bilinear(3, 3, 2), data, data, task=task, curvature="identity")
    assert not any("leave them out" in str(each.message) for each in found)


def test_warns_about_parameters_without_fast_gradients_and_covers_them():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Bilinear(3, 3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    task = ClassificationTask(logits=lambda m, batch: m[2](m[1](m[0](batch[0], batch[0]))))
    x, y = torch.randn(20, 3).double(), torch.arange(20) % 2
    data = loader(x, y)
    with pytest.warns(
        UserWarning, match=r"2 parameter tensors are used(.|\n)*\(0\.weight, 0\.bias\)\. They(.|\n)*a back"
    ):
        found = estimate_influence(module, data, data, task=task, curvature="identity")
    assert found.metadata["parameters"]["0.weight"] == "a backward pass per sample"
    rows = []
    for i in range(20):
        loss = nn.functional.cross_entropy(module[2](module[1](module[0](x[i : i + 1], x[i : i + 1]))), y[i : i + 1])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))]))
    gradients = torch.stack(rows)
    expected = gradients @ torch.stack([gradients[y == k].mean(0) for k in range(2)]).T
    assert_near(found.scores, expected, RELATIVE[torch.float32])


def test_warns_about_random_transform():
    class Noisy(Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, i):
            return torch.randn(3), i % 2

    with pytest.warns(UserWarning, match="returns a different sample each time"):
        estimate_influence(nn.Linear(3, 2), DataLoader(Noisy()), GOOD)


def test_warns_about_model_that_mixes_samples():
    class Centred(nn.Linear):
        def forward(self, x):
            return super().forward(x - x.mean(0))

    with pytest.warns(UserWarning, match="changes with the other samples in its batch"):
        estimate_influence(Centred(3, 2), GOOD, GOOD)


def test_warns_about_probabilities_instead_of_logits():
    module = nn.Sequential(nn.Linear(3, 2), nn.Softmax(dim=1))
    with pytest.warns(UserWarning, match="expected logits, but the model's outputs look like probabilities"):
        estimate_influence(module, GOOD, GOOD)


class Branches(nn.Module):
    """Uses one layer for batches with a positive first feature, and another layer for all other batches."""

    def __init__(self):
        super().__init__()
        self.one, self.other, self.head = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        z = self.one(x) if (x[:, 0] > 0).any() else self.other(x)
        return self.head(torch.tanh(z))


@pytest.mark.filterwarnings("ignore:[24] parameter tensors have no influence")
def test_layer_reached_by_one_dataset_only_does_not_matter():
    torch.manual_seed(0)
    x, y = torch.randn(30, 3), torch.arange(30) % 2
    low, high = torch.cat([-x[:, :1].abs(), x[:, 1:]], 1), torch.cat([x[:, :1].abs(), x[:, 1:]], 1)
    module = Branches()
    exact = estimate_influence(module, loader(low, y), loader(high, y), curvature="gauss_newton")
    assert np.isfinite(exact.scores).all()
    for curvature in ("identity", "ekfac"):  # these treat layers as independent
        found = estimate_influence(module, loader(low, y), loader(high, y), curvature=curvature)
        alone = estimate_influence(module, loader(low, y), loader(high, y), curvature=curvature, layers=["head.*"])
        assert_near(found.scores, alone.scores, RELATIVE[torch.float32])


def test_refuses_a_saturated_model():
    module = nn.Linear(3, 2)
    nn.init.zeros_(module.weight)
    module.bias.data = torch.tensor([1e4, -1e4])
    with pytest.raises(CurvatureError, match="the model is saturated"):
        estimate_influence(module, GOOD, GOOD)


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(3), 0)])


GOOD = loader(torch.randn(10, 3), torch.arange(10) % 2)


def test_refuses_collate_function_that_drops_samples_of_larger_batches(network):
    """The small batches of the first checks are complete, but later labels would belong to other indices."""

    def collate(samples):
        return default_collate(samples[:-1] if len(samples) > 8 else samples)

    with pytest.raises(ValueError, match=r"the collate function returned 15 labels for 16 samples"):
        estimate(network, train_options={"collate_fn": collate, "batch_size": 16})


def test_leaves_the_loaders_unchanged(network):
    module, x, y, x_val, y_val = network
    loaders = loader(x, y, shuffle=True, drop_last=True, batch_size=7), loader(x_val, y_val)
    before = [dict(vars(each)) for each in loaders]
    estimate_influence(module, *loaders)
    assert [dict(vars(each)) for each in loaders] == before


def test_refuses_losses_without_finite_value_or_gradient(network):
    def infinite(logits, targets):
        return F.cross_entropy(logits, targets, reduction="none") + torch.where(targets == 3, torch.inf, 0.0)

    def infinitely_steep(logits, targets):
        return (logits - logits.detach()).square().sum(dim=1).sqrt()

    with pytest.raises(BatchError, match="a sample's loss is not finite"):
        estimate(network, task=ClassificationTask(loss=infinite))
    with pytest.raises(CurvatureError, match="influence scores are not finite"):
        estimate(network, task=ClassificationTask(loss=infinitely_steep), measure="soft_error")


def test_error_for_one_logit_shows_the_fix():
    with pytest.raises(BatchError, match=r"single logit z has the logits \(0, z\)"):
        estimate_influence(nn.Linear(3, 1), GOOD, GOOD)
    task = ClassificationTask(logits=lambda m, batch: nn.functional.pad(m(batch[0]).reshape(-1, 1), (1, 0)))
    assert estimate_influence(nn.Linear(3, 1), GOOD, GOOD, task=task).scores.shape == (10, 2)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_where_the_caller_disabled_gradients(network, mode):
    expected = estimate(network)
    with mode():
        found = estimate(network)
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_outer_autocast_applies_to_the_model_only():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    data = loader(torch.randn(40, 4), torch.arange(40) % 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = estimate_influence(module, data, data)
    inner = estimate_influence(module, data, data, context=lambda: torch.autocast("cpu", torch.bfloat16))
    np.testing.assert_array_equal(found.scores, inner.scores)
    assert not np.array_equal(found.scores, estimate_influence(module, data, data).scores)
