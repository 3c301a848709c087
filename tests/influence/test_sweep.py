"""Choosing the damping by taking a step with each."""

import copy

import pytest
import torch
from torch import nn

from lightning_pareto import sweep_damping
from lightning_pareto.data.synthetic import gaussian_classes
from tests._asserts import assert_near
from tests._oracles import fit_logistic, loader


@pytest.fixture(scope="module")
def problem():
    train, val = gaussian_classes(400, noise=0.3, seed=1), gaussian_classes(600, seed=2)
    module = fit_logistic(train.inputs.double(), train.given, 4)
    return module, loader(train.inputs.double(), train.given), loader(val.inputs.double(), val.given)


def test_predicts_what_a_small_step_does(problem):
    short = sweep_damping(*problem, [1.0], budget=0.01)
    assert_near(short.measured, short.predicted, 0.05)
    assert short.lengths == (1.0,)


def test_prefers_the_damping_whose_step_helps_most(problem):
    sweep = sweep_damping(*problem, [1e-3, 0.1, 1e4], budget=0.2)
    assert sweep.best == sweep.dampings[int(sweep.measured.mean(axis=1).argmax())]
    assert sweep.best != 1e4, "a step of nothing changes nothing"
    assert sweep.measured.mean(axis=1).max() > 0, "leaving out wrong labels helps"
    assert abs(sweep.measured[2]).max() < 1e-2
    assert "← best" in str(sweep)
    assert str(sweep).count("\n") == 3


def test_a_step_too_long_is_shortened(problem):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)).double()
    sweep = sweep_damping(module, *problem[1:], [1e-4], budget=0.5)
    assert sweep.lengths[0] < 1
    assert sweep.measured.mean() < sweep.predicted.mean() / sweep.lengths[0]


def test_the_model_comes_back_to_the_bit(problem):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)).double()
    before = copy.deepcopy(module.state_dict())
    sweep_damping(module, *problem[1:], [0.1, 1.0])
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.training
