"""What an estimate will cost, from a few batches."""

import math
import re

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_pareto.influence import cost as module_of_cost
from lightning_pareto.influence import scoring
from lightning_pareto.influence.categories import Cells
from lightning_pareto.influence.clock import Clock
from lightning_pareto.influence.cost import Cost, forecast
from lightning_pareto.influence.options import Execution, InfluenceOptions, Reading
from lightning_pareto.influence.scoring import COPIES
from lightning_pareto.influence.sharding import Shard
from tests._oracles import loader


def problem(samples=1000):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(samples, 5, generator=generator), torch.arange(samples) % 4
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4))
    return net, loader(x, y, batch_size=20), loader(x[:200], y[:200], batch_size=20)


def cost_of(*problem, options=None, **execution):
    return forecast(
        *problem, reading=Reading(), options=options or InfluenceOptions(), execution=Execution(**execution)
    )


def test_size_is_that_of_all_directions():
    found = cost_of(*problem())
    assert (found.categories, found.folds, found.parameters) == (4, 8, 84)
    assert found.memory == pytest.approx((1 + COPIES) * 4 * 32 * 84 / 2**30)
    assert found.seconds > 0
    assert found.epochs > 0
    assert str(found).startswith("as long as ")
    assert str(found).endswith("up to less than 0.01 GiB for a gradient of 84 parameters per category and fold (4 × 8)")


def test_max_memory_bounds_the_size():
    assert cost_of(*problem(), max_memory=5e-6).memory <= 5e-6


def test_nothing_changes():
    net, *loaders = problem()
    net[1].eval()
    before = [p.clone() for p in net.parameters()]
    cost_of(net, *loaders)
    assert all(map(torch.equal, net.parameters(), before))
    assert all(p.grad is None for p in net.parameters())
    assert [part.training for part in net] == [True, False, True]


def assert_untimed(found, reason):
    assert (found.seconds, found.epochs) == (None, None)
    assert re.search(f"How long it takes is unknown: .*{reason}", str(found))


def test_few_batches_are_not_timed():
    assert_untimed(cost_of(*problem(samples=100)), "fewer than 20 batches")


def test_spawned_workers_are_not_timed():
    net, train, validation = problem()
    spawned = DataLoader(train.dataset, 20, num_workers=1, multiprocessing_context="spawn")
    assert_untimed(cost_of(net, spawned, validation), "workers are spawned")


def test_directions_that_do_not_fit_are_not_timed(monkeypatch):
    monkeypatch.setattr(scoring, "free_memory", lambda _: 0.0)
    found = cost_of(*problem())
    assert not found.fits
    assert_untimed(found, "too little memory")


def test_processes_of_a_machine_share_its_memory(monkeypatch):
    monkeypatch.setattr(scoring, "free_memory", lambda _: 2.0**40)
    monkeypatch.setattr(Shard, "on_one_machine", 4)
    assert cost_of(*problem()).free == 2.0**8


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (
            Cost(10, 8, 10**6, 1500.0, 2000.0, epochs=412.0, seconds=9e5),
            "410 epochs of training (250 h), and up to 1500 GiB",
        ),
        (
            Cost(10, 8, 10**6, 1.5, 8.0, epochs=0.034, seconds=0.2),
            "0.034 epochs of training (0.2 s), and up to 1.5 GiB",
        ),
    ],
)
def test_numbers_have_no_exponents(cost, text):
    assert text in str(cost)


def test_model_without_influence_is_not_timed():
    net, *loaders = problem()
    with torch.no_grad():
        net[2].weight.zero_()
        net[0].weight.zero_()
        net[0].bias.fill_(-1.0)
        net[2].bias.copy_(torch.tensor([500.0, 0.0, 0.0, 0.0]))  # saturated
    assert_untimed(cost_of(net, *loaders), "no parameter changes the outputs")


class Slow:
    """A clock that passes a second at every reading of a batch, and work that reads batches."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("lightning_pareto.influence.clock.time.perf_counter", lambda: self.now)
        self.clock = Clock(torch.device("cpu"))

    def read(self, stage, seconds):
        self.clock(stage, 0, len(seconds))
        for done, second in enumerate(seconds, start=1):
            self.now += second
            self.clock(stage, done, len(seconds))


def test_time_of_a_batch_counts_as_often_as_there_will_be_batches(monkeypatch):
    slow = Slow(monkeypatch)

    def work():
        slow.read("factors", [1.0, 3.0, 2.0])  # the first batch is another case, as its samples may be there already
        slow.now += 5.0
        slow.read("scores", [3.0])

    _, seconds = slow.clock.extrapolate(work, {"factors": 10, "scores": 100})
    assert seconds == 5.0 + 10 * 2.0 + 100 * 3.0


def test_directions_and_blocks_are_extrapolated(monkeypatch):
    monkeypatch.setattr(Clock, "extrapolate", lambda _, work, __: work())
    monkeypatch.setattr(module_of_cost, "replace", lambda scoring, cells: Linear(cells))
    monkeypatch.setattr(module_of_cost, "size_of", lambda directions: 10 * directions)

    class Linear:
        """Fitting takes 100 s; solving 7 s and 2 s for each direction; scoring 3 s and 1 s."""

        def __init__(self, cells):
            self.cells = cells

        def curvature(self):
            return None, 100.0

        def solved(self, _curvature, _start, _memory):
            directions = self.cells.support.numel()
            return directions, 7.0 + 2.0 * directions

        def scored(self, directions):
            return None, 3.0 + 1.0 * directions

    cells = Cells(torch.arange(50), torch.ones(5, 10, dtype=torch.int64), tuple("abcdefghij"))
    memory = 2 * 500 / 3  # half of which holds a third of the directions
    found = module_of_cost._seconds(Linear(cells), memory, Clock(torch.device("cpu")), {})
    assert math.isclose(found, 100 + 7 + 3 * 3 + 50 * (2 + 1))


@pytest.mark.parametrize("folds", [1, 2, 3])
def test_few_directions_are_timed(folds):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(600, 3, generator=generator), torch.arange(600) % 2
    data = loader(x, y, batch_size=10)
    found = cost_of(nn.Linear(3, 2), data, data, options=InfluenceOptions(folds=folds))
    assert (found.categories, found.folds, found.seconds > 0) == (2, folds, True)
