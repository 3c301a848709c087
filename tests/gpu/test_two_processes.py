"""Two processes that share one GPU, as two nodes of one process each, with collectives by gloo."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from lightning_pareto import InfluenceMatrix, ParetoCallback
from tests._asserts import assert_near
from tests._tolerances import TWO_PROCESSES
from tests.distributed._two import untrained
from tests.integration._models import Data, trainer

NODE = """
import sys
from pathlib import Path

from lightning.pytorch.strategies import DDPStrategy

from lightning_pareto import ParetoCallback, ReweightedDataModule, reweight
from tests.distributed._two import untrained
from tests.integration import _models

_models.ACCELERATOR = "gpu"
folder = Path(sys.argv[1])
pareto = ParetoCallback(verbose=False, dirpath=folder / "pareto")
options = {"num_nodes": 2, "max_epochs": 1}
first = _models.trainer(folder, pareto, strategy=DDPStrategy(process_group_backend="gloo"), **options)
first.fit(untrained(), datamodule=_models.Data())
assert first.world_size == 2
weights = reweight(pareto.influence)
second = _models.trainer(folder, strategy=DDPStrategy(process_group_backend="gloo"), **options)
second.fit(_models.Plain(), datamodule=ReweightedDataModule(_models.Data(), weights))
(folder / f"rank{first.global_rank}").write_text(repr(pareto.influence.scores.tobytes()))
"""


def free_port():
    with socket.socket() as found:
        found.bind(("", 0))
        return found.getsockname()[1]


def test_influence_is_that_of_one_process(tmp_path):
    script, root = tmp_path / "node.py", Path(__file__).parents[2]
    script.write_text(NODE)
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "PYTHONPATH": os.pathsep.join([str(root), *sys.path]),
    }
    nodes = [
        subprocess.Popen(
            [sys.executable, script, tmp_path],
            env={**os.environ, **shared, "NODE_RANK": str(rank), "LOCAL_RANK": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [node.communicate(timeout=240) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(error[-3000:] for _, error in outputs)
    assert (tmp_path / "rank0").read_text() == (tmp_path / "rank1").read_text()
    alone = ParetoCallback(verbose=False)
    trainer(tmp_path / "alone", alone, max_epochs=1).fit(untrained(), datamodule=Data())
    together = InfluenceMatrix.load(tmp_path / "pareto" / "influence.safetensors")
    assert_near(together.scores, alone.influence.scores, TWO_PROCESSES)
    assert np.isfinite(together.scores).all()
    assert torch.cuda.is_available()
