"""Tests of how validation samples are dealt out to the folds."""

import pytest
import torch
from torch import nn

from lightning_pareto.influence.categories import deal_folds, scan
from lightning_pareto.influence.gradients import GradientProbe
from lightning_pareto.influence.layers import select_layers
from lightning_pareto.influence.passes import GradientPass
from lightning_pareto.influence.sharding import Shard
from lightning_pareto.influence.task import ClassificationTask
from tests._oracles import loader

SIZES = (1, 2, 7, 8, 9, 100, 253)


@pytest.fixture
def categories():
    """Seven categories of very different sizes, in random order."""
    ordered = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))
    return ordered[torch.randperm(len(ordered), generator=torch.Generator().manual_seed(1))]


@pytest.mark.parametrize("folds", [1, 3, 8])
def test_fold_sizes_of_a_category_differ_by_at_most_one(categories, folds):
    fold = deal_folds(categories, folds, seed=0)
    for k, size in enumerate(SIZES):
        counts = torch.bincount(fold[categories == k], minlength=folds)
        assert counts.sum() == size
        assert counts.max() - counts.min() <= 1
        assert len(counts) == folds


def test_leftover_samples_do_not_all_go_to_the_first_folds():
    """With 400 categories of one sample each, every one of eight folds gets its share."""
    counts = torch.bincount(deal_folds(torch.arange(400), 8, seed=0), minlength=8)
    assert counts.min() > 25


def test_deal_is_random_but_determined_by_the_seed(categories):
    fold = deal_folds(categories, 8, seed=0)
    assert torch.equal(fold, deal_folds(categories, 8, seed=0))
    assert not torch.equal(fold, deal_folds(categories, 8, seed=1))
    large = fold[categories == len(SIZES) - 1]
    assert not torch.equal(large[:8].sort().values, large[8:16].sort().values), "neighbours dealt out in turn"


def scan_labels(y, folds):
    x = torch.randn(len(y), 4)
    module = nn.Linear(4, 3)
    probe = GradientProbe(module, select_layers(module), ClassificationTask())
    validation = GradientPass(loader=loader(x, y, batch_size=7), probe=probe, shard=Shard(), device=torch.device("cpu"))
    return scan(validation, ClassificationTask().loss, folds=folds, seed=5)


def test_warns_about_more_folds_than_samples():
    y = torch.arange(6) % 3
    with pytest.warns(UserWarning, match="8 folds for 6 validation samples: 2 of them stay empty"):
        scan_labels(y, 8)
    assert (scan_labels(y, 6).support.sum(dim=1) <= 2).all()  # and no warning


def test_cells_combine_fold_and_category():
    torch.manual_seed(0)
    y = torch.randint(3, (50,))
    cells = scan_labels(y, 4)
    assert torch.equal(cells.cell % 3, y)
    assert torch.equal(cells.cell // 3, deal_folds(y, 4, seed=5))
    for fold in range(4):
        for k in range(3):
            assert cells.support[fold, k] == ((cells.cell // 3 == fold) & (y == k)).sum()


@pytest.mark.parametrize("category", [-1, 2])
def test_refuses_categories_without_a_name(category):
    """Such a sample would otherwise be counted in a cell of another fold."""
    x, y = torch.randn(20, 4), torch.arange(20) % 2
    module = nn.Linear(4, 3)
    probe = GradientProbe(module, select_layers(module), ClassificationTask())
    validation = GradientPass(loader=loader(x, y), probe=probe, shard=Shard(), device=torch.device("cpu"))
    groups = torch.where(torch.arange(20) == 7, category, y)
    with pytest.raises(ValueError, match=r"validation categories must be in \[0, 2\), found"):
        scan(
            validation,
            ClassificationTask().loss,
            categories=lambda batch: groups,
            category_names=["a", "b"],
            folds=4,
            seed=5,
        )
