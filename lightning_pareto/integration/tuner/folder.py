"""The folder of a search: an interrupted search goes on in it, one that has ended makes room for a new one."""

import shutil
from pathlib import Path

import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only

from lightning_pareto.integration.tuner.result import ParetoResult

TRIALS = "trials"
RESULT_FILE = "result.safetensors"


def begin(folder: Path) -> None:
    """Clear away a search that has ended; a collective operation where processes are up."""
    _clear(folder)
    _wait()


def finish(folder: Path, result: ParetoResult) -> None:
    """Write the result, and remove every checkpoint but the one handed back; likewise collective."""
    _write(folder, result)
    _wait()


@rank_zero_only
def _clear(folder: Path) -> None:
    if (folder / RESULT_FILE).exists():
        shutil.rmtree(folder / TRIALS, ignore_errors=True)
        (folder / RESULT_FILE).unlink()


@rank_zero_only
def _write(folder: Path, result: ParetoResult) -> None:
    result.save(folder / RESULT_FILE)
    kept = Path(result.ckpt_path).resolve()
    for path in (folder / TRIALS).rglob("*"):
        if path.suffix in (".ckpt", ".pt") and path.resolve() != kept:
            path.unlink()


def _wait() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
