"""The judged step: it is measured on samples that it does not know, and leaves the model as it was."""

import contextlib
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F

from lightning_pareto import ClasswiseChange, Shard
from lightning_pareto.candidates.judged_step import judge_step, stepped
from lightning_pareto.influence.estimate import estimating
from lightning_pareto.influence.options import Execution, InfluenceOptions, Reading
from lightning_pareto.influence.sharding import OtherProcessError
from lightning_pareto.influence.task import ClassificationTask
from lightning_pareto.reweighting.reweight import solve_mass_preserving
from tests._oracles import loader
from tests.candidates._evidence import CLASSES, mixture
from tests.candidates.test_candidates import accuracy, fitted


@contextlib.contextmanager
def estimated(module, train, validation, *, shard=None, **options):
    with estimating(
        module,
        loader(*train, batch_size=100),
        loader(*validation, batch_size=90),
        reading=Reading(task=ClassificationTask()),
        options=InfluenceOptions(**options),
        execution=Execution(shard=shard or Shard()),
    ) as found:
        yield found


def weigh(influence):
    return solve_mass_preserving(influence, None, 0.3)


@pytest.fixture(scope="module")
def noisy():
    """A model that has fitted many wrong labels, and the data."""
    x, given, _ = mixture(600, 0, wrong=0.6)
    validation, fresh = mixture(900, 1)[::2], mixture(6000, 2)[::2]
    return fitted(x, given), (x, given), validation, fresh


@pytest.mark.parametrize("curvature", ["ekfac", "gauss_newton", "cg"])
def test_step_undoes_wrong_labels_and_its_measure_holds_on_fresh_samples(noisy, curvature):
    module, train, validation, fresh = noisy
    before, kept = accuracy(module, *fresh), deepcopy(module.state_dict())
    with estimated(module, train, validation, curvature=curvature) as found:
        outcome, after = judge_step(found, weigh)
        afterwards = [accuracy(module, *fresh) for _ in stepped(found, weigh)]
    change = ClasswiseChange(outcome, after)
    assert change.p_gain < 0.01
    truth = np.mean(afterwards, axis=0) - before
    assert change.macro == pytest.approx(truth.mean(), abs=3 * change.macro_error)
    assert truth[0] > 0.1, "the class whose labels were wrong"
    assert all(torch.equal(value, kept[name]) for name, value in module.state_dict().items())
    assert not any(p.grad is not None and p.grad.any() for p in module.parameters())


def test_no_sample_is_measured_by_a_step_that_knows_it(noisy):
    module, train, (x, y), _ = noisy
    with estimated(module, train, (x, y)) as found:
        fold = found.cells.cell // CLASSES
        asked = []
        _, after = judge_step(found, lambda influence: asked.append(influence.metadata["of_folds"]) or weigh(influence))
        assert asked == [[0, 2, 4, 6], [1, 3, 5, 7]]
        for half, unseen in enumerate(stepped(found, weigh)):
            assert torch.equal(unseen, fold % 2 != half)
            with torch.no_grad():
                expected = module(x).softmax(dim=1)[torch.arange(len(y)), y]
            np.testing.assert_allclose(after.probability[unseen], expected[unseen], rtol=1e-5)


def test_without_folds_there_is_only_the_outcome(noisy):
    module, train, (x, y), _ = noisy
    with estimated(module, train, (x, y), folds=1) as found:
        outcome, after = judge_step(found, weigh)
    assert after is None
    with torch.no_grad():
        np.testing.assert_array_equal(outcome.predicted, module(x).argmax(dim=1))


def test_converged_clean_model_hardly_gains():
    x, y, _ = mixture(600, 3)
    module = nn.Linear(5, CLASSES)
    optimiser = torch.optim.LBFGS(module.parameters(), max_iter=100)

    def closure():
        optimiser.zero_grad()
        loss = F.cross_entropy(module(x), y)
        loss.backward()
        return loss

    optimiser.step(closure)
    module.zero_grad()
    with estimated(module, (x, y), mixture(900, 4)[::2]) as found:
        change = ClasswiseChange(*judge_step(found, weigh))
    assert change.answer == "no difference"
    assert abs(change.macro) < 0.02


class OwnAutocast(nn.Module):
    """Keeps copies of its parameters in half precision for as long as an outer autocast lasts."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.inner(x)


class WithoutBias(nn.Linear):
    """Has a bias that it does not use."""

    def forward(self, x):
        return F.linear(x, self.weight)


def test_model_with_autocast_of_its_own_is_measured_after_the_step(noisy):
    module, train, validation, _ = noisy
    with estimated(OwnAutocast(deepcopy(module)), train, validation) as found:
        outcome, after = judge_step(found, weigh)
    assert (np.abs(after.probability - outcome.probability) > 1e-3).mean() > 0.9


def test_unused_bias_takes_no_part(noisy):
    _, train, validation, _ = noisy
    module = fitted(*train, nn.Sequential(nn.Linear(5, 16), nn.Tanh(), WithoutBias(16, CLASSES)))
    with estimated(module, train, validation) as found:
        _, after = judge_step(found, weigh)
    assert after is not None


def test_interruption_restores_the_parameters_at_once(noisy, monkeypatch):
    module, train, validation, _ = noisy
    kept = deepcopy(module.state_dict())
    with estimated(module, train, validation) as found:
        calls = []

        def interrupted(*_):
            calls.append(any(not torch.equal(value, kept[name]) for name, value in module.state_dict().items()))
            raise KeyboardInterrupt

        monkeypatch.setattr("lightning_pareto.evaluation.outcome.Outcome.placed", interrupted)
        try:
            judge_step(found, weigh)
        except KeyboardInterrupt:
            restored = [torch.equal(value, kept[name]) for name, value in module.state_dict().items()]
    assert calls == [True], "the model had moved"
    assert all(restored)


def one_fails(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/shared", rank=rank, world_size=2)
    x, given, _ = mixture(200, 0, wrong=0.6)
    parts = (x, given), mixture(120, 1)[::2]
    with estimated(fitted(x, given, steps=20), *parts, shard=Shard(rank, 2)) as found:

        def weigh_or_fail(influence):
            if rank:
                raise ArithmeticError("no weights today")
            return weigh(influence)

        with pytest.raises((ArithmeticError, OtherProcessError)):
            judge_step(found, weigh_or_fail)
        _, after = judge_step(found, weigh)
    np.save(f"{folder}/{rank}", after.probability)


@pytest.mark.distributed
def test_processes_fail_together_and_find_the_same(tmp_path):
    mp.start_processes(one_fails, args=(str(tmp_path),), nprocs=2, start_method="fork")
    first, second = (np.load(tmp_path / f"{rank}.npy") for rank in (0, 1))
    np.testing.assert_array_equal(first, second)
    x, given, _ = mixture(200, 0, wrong=0.6)
    with estimated(fitted(x, given, steps=20), (x, given), mixture(120, 1)[::2]) as found:
        alone = judge_step(found, weigh)[1].probability
    np.testing.assert_allclose(first, alone, rtol=1e-3, atol=1e-4)
