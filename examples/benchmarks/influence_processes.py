"""How much faster is influence on two single-threaded processes than on one?

    pip install lightning_pareto
    python examples/benchmarks/influence_processes.py

Prints both times, their ratio and the largest relative difference between the two matrices. Expected on two idle
cores: at least 1.6 times as fast.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from influence_speed import CASES, data
from torch.utils.data import DataLoader

from lightning_pareto import InfluenceMatrix, Shard, estimate_influence


def estimate(rank: int, processes: int, folder: str, options: argparse.Namespace) -> None:
    """Compute this process's part. The first process writes the matrix and the seconds."""
    torch.set_num_threads(1)
    if processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=processes)
    case = list(CASES.values())[options.case]
    torch.manual_seed(0)
    model, train, val = case.model(), data(case, options.train, 1), data(case, options.val, 2)
    loaders = DataLoader(train, batch_size=128), DataLoader(val, batch_size=128)
    start = time.perf_counter()
    influence = estimate_influence(model, *loaders, shard=Shard(rank, processes))
    if rank == 0:
        influence.save(Path(folder) / f"{processes}.safetensors")
        (Path(folder) / f"{processes}.seconds").write_text(str(time.perf_counter() - start))
    if processes > 1:
        dist.barrier()
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=10_000, help="number of training samples")
    parser.add_argument("--val", type=int, default=2_000, help="number of validation samples")
    parser.add_argument("--case", type=int, default=0, help="number of the model in influence_speed.py, from 0")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for processes in (1, 2):
            arguments = (processes, folder, options)
            mp.start_processes(estimate, arguments, processes, start_method="fork")  # type: ignore
        one, two = (float((Path(folder) / f"{n}.seconds").read_text()) for n in (1, 2))
        a, b = (InfluenceMatrix.load(Path(folder) / f"{n}.safetensors").scores for n in (1, 2))
    print(f"{list(CASES)[options.case]}: {one:.1f} s on one process, {two:.1f} s on two, {one / two:.2f} times as fast")
    print(f"largest relative difference: {np.abs(a - b).max() / np.abs(a).max():.1e}")


if __name__ == "__main__":
    main()
