"""One of the train loaders that a DataModule returns, and a copy of one with another dataset."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from lightning_pareto.integration.trainer.namespaces import is_a

Change = Callable[[Any], Any]


def change_one(loaders: Any, which: str | int | None, change: Change) -> Any:
    """Return ``loaders`` with one of them changed.

    Args:
        loaders: a loader, or a dict, list, tuple or CombinedLoader of them.
        which: the key or number of the one that is meant; None for the only one.
        change: function of the loader.

    Raises:
        ValueError: if ``which`` does not choose one of them.
    """
    if is_a(loaders, CombinedLoader):
        chosen = chosen_of(loaders.iterables, which)
        twin = copy.copy(loaders)
        twin.flattened = [change(loader) if loader is chosen else loader for loader in loaders.flattened]
        return twin
    chosen = chosen_of(loaders, which)
    if isinstance(loaders, Mapping):
        return {key: change(loader) if key == which else loader for key, loader in loaders.items()}
    if isinstance(loaders, (list, tuple)):
        return [change(loader) if loader is chosen else loader for loader in loaders]
    return change(loaders)


def chosen_of(loaders: Any, which: str | int | None) -> Any:
    """One of the loaders.

    Raises:
        ValueError: if ``which`` does not choose one of them.
    """
    if isinstance(loaders, Mapping):
        known: dict[Any, Any] = dict(loaders)
    elif isinstance(loaders, (list, tuple)):
        known = dict(enumerate(loaders))
    elif which is None:
        return loaders
    else:
        raise ValueError(f"loader={which!r}, but train_dataloader() returns a single {type(loaders).__name__}")
    if which is None or which not in known:
        raise ValueError(
            f"train_dataloader() returns {len(known)} loaders: say which one the weights are for, "
            f"loader={' or '.join(map(repr, known))}; found {which!r}"
        )
    return known[which]


def with_dataset(loader: "DataLoader[Any]", dataset: Any, **changed: Any) -> "DataLoader[Any]":
    """Return a copy of ``loader`` over another dataset of the same indices, everything else kept.

    Lightning remembers the arguments that a loader was made with, and makes it anew from them to give it a distributed
    sampler: they have to name the new dataset, too.

    Args:
        loader: the loader.
        dataset: the dataset.
        changed: other attributes of the copy.
    """
    twin, old = copy.copy(loader), loader.dataset
    twin.__dict__.update(dataset=dataset, _iterator=None, **changed)
    remembered = vars(twin)
    if "__pl_saved_args" in remembered:
        given = remembered["__pl_saved_kwargs"]
        remembered["__pl_saved_args"] = tuple(dataset if x is old else x for x in remembered["__pl_saved_args"])
        remembered["__pl_saved_kwargs"] = {name: dataset if x is old else x for name, x in given.items()}
        remembered["__dataset"] = dataset
    return twin
