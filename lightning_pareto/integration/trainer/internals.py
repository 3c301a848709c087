"""Everything private of Lightning's that this package relies on, in one file."""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from torch.utils.data import DataLoader

from lightning_pareto.data.loaders import sampler_of
from lightning_pareto.integration.trainer.namespaces import is_a


def set_up_validation(trainer: pl.Trainer) -> None:
    """Create the validation loaders now. Without a sanity check Lightning may wait for the first validation epoch."""
    if trainer.enable_validation:
        trainer.fit_loop.epoch_loop.val_loop.setup_data()


def validation_dataloaders(trainer: pl.Trainer) -> Any:
    """The validation loaders in use. Under ``trainer.validate`` the public property may return those of a fit."""
    combined = getattr(trainer.validate_loop, "_combined_loader", None) if trainer.state.fn == "validate" else None
    return trainer.val_dataloaders if combined is None else combined.iterables


def mode_of_validation(trainer: pl.Trainer) -> str:
    """The mode of the CombinedLoader of the validation; "sequential" for loaders that are read one after the other."""
    loop = trainer.validate_loop if trainer.state.fn == "validate" else trainer.fit_loop.epoch_loop.val_loop
    return str(getattr(loop._combined_loader, "_mode", "sequential"))


def logging_step(trainer: pl.Trainer) -> int:
    """The step at which Lightning's own ``log`` would log during a fit."""
    step: int = getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", trainer.global_step)
    return step


def names_logged(trainer: pl.Trainer) -> set[str]:
    """Names that ``log`` was called with in the current epoch, by the module or a callback."""
    results: Any = trainer._results
    return set() if results is None else {result.meta.name for result in results.values()}


def acts_on_validation_at_once(callback: pl.Callback) -> bool:
    """Whether a callback that watches a metric acts on a validation before the end of its epoch."""
    names = ("_save_on_train_epoch_end", "_check_on_train_epoch_end")
    return any(getattr(callback, name, None) is False for name in names)


def remember_dataset(loader: "DataLoader[Any]", old: Any, new: Any) -> None:
    """Replace a dataset in the arguments from which Lightning rebuilds a loader to give it a distributed sampler."""
    remembered = vars(loader)
    if "__pl_saved_args" in remembered:
        given = remembered["__pl_saved_kwargs"]
        remembered["__pl_saved_args"] = tuple(new if x is old else x for x in remembered["__pl_saved_args"])
        remembered["__pl_saved_kwargs"] = {name: new if x is old else x for name, x in given.items()}
        remembered["__dataset"] = new


def own_sampler(loader: "DataLoader[Any]") -> Any:
    """The user's sampler, without what Lightning wraps around it for several processes."""
    sampler = sampler_of(loader)
    return getattr(getattr(sampler, "dataset", None), "_sampler", sampler)


def is_compiled(module: pl.LightningModule) -> bool:
    """Whether ``torch.compile`` has compiled a module or a part of it."""
    parts = any(hasattr(each, "_orig_mod") or each._compiled_call_impl is not None for each in module.modules())
    return parts or getattr(module, "_compiler_ctx", None) is not None


@contextlib.contextmanager
def only(trainer: pl.Trainer, *callbacks: pl.Callback) -> Iterator[None]:
    """Leave out all callbacks but these and progress bars for a while."""
    options: Any = trainer
    usual = options.callbacks
    options.callbacks = [*(each for each in usual if is_a(each, ProgressBar)), *callbacks]
    try:
        yield
    finally:
        options.callbacks = usual


@contextlib.contextmanager
def keeping_gradients(module: Any) -> Iterator[None]:
    """Restore ``.grad`` of the module's parameters, which Lightning clears before every stage, validation included."""
    kept = [(parameter, parameter.grad) for parameter in getattr(module, "parameters", list)()]
    try:
        yield
    finally:
        for parameter, gradient in kept:
            parameter.grad = None if gradient is None else gradient.to(parameter.device)


@contextlib.contextmanager
def running_instead_of_training(trainer: pl.Trainer, work: Callable[[], None]) -> Iterator[None]:
    """Let ``trainer.fit`` do some work instead of the training, once model, data and processes are set up."""
    sanity, trainer.num_sanity_val_steps = trainer.num_sanity_val_steps, 0
    try:
        with _running_instead_of(trainer.fit_loop, work):
            yield
    finally:
        trainer.num_sanity_val_steps = sanity


def running_instead_of_validation(trainer: pl.Trainer, work: Callable[[], None]) -> AbstractContextManager[None]:
    """Let ``trainer.validate`` do some work instead, once model, data and processes are set up."""
    return _running_instead_of(trainer.validate_loop, work)


@contextlib.contextmanager
def _running_instead_of(loop: Any, work: Callable[[], None]) -> Iterator[None]:
    vars(loop)["run"] = functools.partial(_work, loop, work)
    try:
        yield
    finally:
        del vars(loop)["run"]


def _work(loop: Any, work: Callable[[], None]) -> list[Any]:
    with warnings.catch_warnings():  # work that reads every sample exactly once may be done by several processes
        warnings.filterwarnings("ignore", "Using `DistributedSampler` with the dataloaders")
        loop.setup_data()
    work()
    return []  # as a validation without metrics


def loop_state(trainer: pl.Trainer) -> dict[str, Any]:
    """Counters of the epoch loop and the values that it has logged."""
    epoch = trainer.fit_loop.epoch_loop
    counters = {name: part.state_dict() for name, part in _progress(trainer).items()}
    return {"stepped": epoch._batches_that_stepped, "results": epoch._results, "counters": counters}


def restore_loop_state(trainer: pl.Trainer, state: dict[str, Any]) -> None:
    """Undo what happened to the epoch loop since :func:`loop_state`."""
    epoch = trainer.fit_loop.epoch_loop
    epoch._batches_that_stepped, epoch._results = state["stepped"], state["results"]
    for name, part in _progress(trainer).items():
        part.load_state_dict(state["counters"][name])


def rerun_epoch(trainer: pl.Trainer, loader: "DataLoader[Any]") -> bool:
    """Run an epoch of training and validation with Lightning's own loop, from within ``on_train_epoch_end``.

    Args:
        trainer: its counters stand at the beginning of the epoch.
        loader: the training data of this epoch.

    Returns:
        Whether the epoch ran to its end.
    """
    fit = trainer.fit_loop
    epoch = fit.epoch_loop
    epoch._results = type(epoch._results)(training=True)
    with _reading(trainer, loader):
        assert fit._data_fetcher is not None
        if fit.is_resuming:  # then Lightning assumes a new iterator
            iter(fit._data_fetcher)
        epoch.run(fit._data_fetcher)
    trainer._logger_connector.epoch_end_reached()
    return bool(epoch.batch_progress.is_last_batch)


@contextlib.contextmanager
def _reading(trainer: pl.Trainer, loader: "DataLoader[Any]") -> Iterator[None]:
    """Make the trainer read from ``loader``, in an epoch that does not count as processed yet."""
    combined, current = trainer.fit_loop._combined_loader, trainer.fit_loop.epoch_progress.current
    assert combined is not None
    usual, combined.flattened = combined.flattened, [loader]
    current.processed -= 1  # type: ignore[attr-defined]
    try:
        yield
    finally:
        combined.flattened = usual
        current.processed += 1  # type: ignore[attr-defined]


def _progress(trainer: pl.Trainer) -> dict[str, Any]:
    epoch = trainer.fit_loop.epoch_loop
    return {
        "batches": epoch.batch_progress,
        "schedulers": epoch.scheduler_progress,
        "automatic": epoch.automatic_optimization.optim_progress,
        "manual": epoch.manual_optimization.optim_step_progress,
        "validation": epoch.val_loop.batch_progress,
    }
