"""Replace one of the train loaders that a DataModule returns, or a loader's dataset."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from lightning_pareto.integration.trainer.internals import remember_dataset
from lightning_pareto.integration.trainer.namespaces import is_a


def replace_loader(loaders: Any, which: str | int | None, replacement: Callable[[Any], Any]) -> Any:
    """Return ``loaders`` with one of them replaced.

    Args:
        loaders: a loader, or a dict, list, tuple or CombinedLoader of them.
        which: key or number of the loader to replace; None for the only one.
        replacement: function of the loader returning the new one.

    Raises:
        ValueError: if ``which`` does not choose one of them.
    """
    if is_a(loaders, CombinedLoader):
        chosen = choose_loader(loaders.iterables, which)
        twin = copy.copy(loaders)
        twin.flattened = [replacement(loader) if loader is chosen else loader for loader in loaders.flattened]
        return twin
    chosen = choose_loader(loaders, which)
    if isinstance(loaders, Mapping):
        return {key: replacement(loader) if key == which else loader for key, loader in loaders.items()}
    if isinstance(loaders, (list, tuple)):
        return [replacement(loader) if loader is chosen else loader for loader in loaders]
    return replacement(loaders)


def choose_loader(loaders: Any, which: str | int | None) -> Any:
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
            f"train_dataloader() returns {len(known)} loaders, found loader={which!r}. Name the one that the weights "
            f"are for: loader={' or '.join(map(repr, known))}"
        )
    return known[which]


def with_dataset(loader: "DataLoader[Any]", dataset: Any, **changed: Any) -> "DataLoader[Any]":
    """Return a copy of ``loader`` over another dataset with the same indices.

    Args:
        loader: the loader.
        dataset: the new dataset.
        changed: other attributes of the copy.
    """
    twin = copy.copy(loader)
    twin.__dict__.update(dataset=dataset, _iterator=None, **changed)
    remember_dataset(twin, loader.dataset, dataset)
    return twin
