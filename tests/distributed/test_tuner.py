"""A search on two processes: one decision, one folder."""

import functools

import numpy as np
import pytest
import torch
import torch.distributed as dist

from lightning_pareto import HeadRefit, ParetoCallback, ParetoResult, ParetoTuner
from lightning_pareto.integration.tuner.project import Project
from lightning_pareto.integration.tuner.starting_model import FIRST_FIT
from lightning_pareto.integration.tuner.trials import Trials
from tests.distributed._two import launched, two
from tests.integration._models import Data, Plain

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed support"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork"),
]


def search(folder, strategy, **options):
    torch.manual_seed(0)
    model = Plain()
    tuner = ParetoTuner(
        lambda: two(folder / "user", strategy=strategy, max_epochs=2),
        callback=ParetoCallback(verbose=False),
        **{"max_epochs_spent": 10, "candidates": [HeadRefit()], **options},
        dirpath=folder / "search",
        verbose=False,
    )
    return model, tuner, tuner.fit(model, Data())


def assert_sound(result, model):
    assert result.support.sum() == 120
    assert result.epochs_spent == 10
    assert [trial.name for trial in result.trials][:2] == ["first fit", "influence"]
    saved = torch.load(result.ckpt_path, weights_only=True)["state_dict"]
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())


@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    return search(tmp_path_factory.mktemp("forked"), "ddp_fork")


def test_search_works_with_processes_that_end_with_each_fit(tmp_path, forked):
    model, tuner, result = forked
    assert_sound(result, model)
    assert tuner.verdict.headroom > 0
    _, _, again = search(tmp_path / "again", "ddp_fork")
    assert again.trials == result.trials
    np.testing.assert_array_equal(again.after, result.after)


def test_processes_share_the_remaining_half_of_the_validation_data(tmp_path):
    model, _, result = search(tmp_path, "ddp_fork", include_validation=True, max_epochs_spent=14)
    assert result.support.sum() == 120
    assert sum("refit with half" in trial.name for trial in result.trials) == 4
    saved = torch.load(result.ckpt_path, weights_only=True)["state_dict"]
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())


def test_spawned_processes_find_the_same_as_forked_ones(tmp_path):
    """In a single trial, since each starts new interpreters."""
    found = []
    for strategy in ("ddp_fork", "ddp_spawn"):
        torch.manual_seed(0)
        project = Project(
            trainer_factory=functools.partial(two, tmp_path / "user", strategy=strategy, max_epochs=2),
            module=Plain(),
            datamodule=Data(),
            callback=ParetoCallback(verbose=False),
        )
        found.append(Trials(project, tmp_path / strategy).run(FIRST_FIT))
    forked, spawned = found
    np.testing.assert_array_equal(spawned.outcome.probability, forked.outcome.probability)
    forked, spawned = (torch.load(each.checkpoint, weights_only=True)["state_dict"] for each in found)
    assert all(torch.equal(spawned[name], value) for name, value in forked.items())


SCRIPT = """
import json
import sys
from pathlib import Path
from tests.distributed.test_tuner import assert_sound, search

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    model, tuner, result = search(folder, "ddp")
    assert_sound(result, model)
    rank = tuner._factory().global_rank
    (folder / f"decision{rank}.json").write_text(json.dumps([repr(result), result.after.tolist(), result.ckpt_path]))
"""


def test_processes_of_a_launched_script_decide_alike(tmp_path, forked):
    launched(tmp_path, SCRIPT)
    decisions = [(tmp_path / f"decision{rank}.json").read_text() for rank in range(2)]
    assert decisions[0] == decisions[1]
    assert ParetoResult.load(tmp_path / "search" / "result.safetensors").epochs_spent == 10
    result = ParetoResult.load(tmp_path / "search" / "result.safetensors")
    np.testing.assert_allclose([t.macro for t in result.trials], [t.macro for t in forked[2].trials], atol=0.02)
