"""Training samples worth a look: suspected wrong labels, and samples that two categories disagree about."""

from collections.abc import Callable, Mapping, Sized
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_pareto.display.notebook import MOST_ROWS
from lightning_pareto.display.warning import warn
from lightning_pareto.influence.label_quality import label_quality
from lightning_pareto.influence.matrix import InfluenceMatrix, check_type
from lightning_pareto.report.previews import Preview, previews_of
from lightning_pareto.report.sample_table import SampleTable


def suspected_samples(
    influence: InfluenceMatrix, count: int = 100, *, dataset: Any = None, preview: Callable[[Any], Any] | None = None
) -> SampleTable:
    """The training samples with the lowest :func:`label_quality`: suspected wrong labels, the worst first.

    They harm the validation set, or the model itself gives another label. Look at them before you believe it. A rare
    but correct sample can harm on average too.

    Args:
        influence: the influence matrix.
        count: largest number of samples.
        dataset: the training dataset, to show pictures and texts. The 20 samples that the table prints are read once
            more. With a random augmentation this is one draw.
        preview: function of an item of the dataset returning a picture (tensor, array or PIL image) or a text. Pictures
            and texts in the items are found without it.

    Returns:
        A table that prints itself and has ``to_csv``, ``to_pandas`` and ``rows``. With a dataset, it prints the size of
        each preview (height × width, at most 64 pixels each) or the beginning of each text. A notebook shows pictures
        and texts themselves. A warning says why a sample could not be read, or that nothing can be shown.

    Raises:
        ValueError: for a count below 1, a dataset of another size, or ``preview`` without a dataset.

    Example:
        >>> suspected_samples(InfluenceMatrix([[1.0, 1.0], [-3.0, -1.0], [-1.0, 1.0]], [0, 1, 0]), 1).index
        array([1])
    """
    check_type(influence)
    order = label_quality(influence).argsort(kind="stable")
    table = _table("Suspected wrong labels, by influence and by the model's confidence", influence, order, count)
    return replace(table, previews=_previews(table.index[:MOST_ROWS], len(influence.labels), dataset, preview))


def trade_off_samples(influence: InfluenceMatrix, helped: str, harmed: str, count: int = 100) -> SampleTable:
    """The training samples that help one category and harm another, the strongest disagreement first.

    Args:
        influence: the influence matrix.
        helped: name of the category that they help.
        harmed: name of the category that they harm.
        count: largest number of samples.

    Returns:
        A table that prints the influence on both categories.

    Raises:
        ValueError: for a name that is not a category with validation samples, the same name twice, or a count below 1.

    Example:
        >>> influence = InfluenceMatrix([[1.0, 1.0], [2.0, -1.0], [-1.0, 1.0]], [0, 1, 0], ("cat", "dog"))
        >>> trade_off_samples(influence, helped="cat", harmed="dog").index
        array([1])
    """
    check_type(influence)
    if helped == harmed:
        raise ValueError(f"a trade-off is between two categories, found {helped!r} twice")
    relative = influence.scores / influence.scale
    gain, loss = (relative[:, column_of(influence, name)] for name in (helped, harmed))
    strength = np.minimum(gain, -loss)
    order = np.argsort(-strength, kind="stable")
    title = f"Samples that help {helped!r} and harm {harmed!r}"
    return _table(title, influence, order[strength[order] > 0], count, (helped, harmed))


def column_of(influence: InfluenceMatrix, name: str) -> int:
    """Number of a category that has validation samples.

    Raises:
        ValueError: for any other name.
    """
    names = influence.category_names
    if name not in names or not influence.present[names.index(name)]:
        raise ValueError(f"{name!r} is not a category with validation samples; they are {names}")
    return names.index(name)


def _table(
    title: str, influence: InfluenceMatrix, order: npt.NDArray[np.intp], count: int, shown: tuple[str, ...] = ()
) -> SampleTable:
    if count < 1:
        raise ValueError(f"count is the number of samples to list, at least 1, found {count}")
    order = order[:count]
    return SampleTable(
        title=title,
        index=order,
        given=influence.labels[order],
        predicted=None if influence.predicted is None else influence.predicted[order],
        total=influence.total()[order],
        quality=label_quality(influence)[order],
        confidence=None if influence.confidence is None else influence.confidence[order],
        influence=influence.scores[order],
        category_names=influence.category_names,
        class_names=influence.class_names,
        shown=shown,
    )


def _previews(
    index: npt.NDArray[np.int64], size: int, dataset: Any, preview: Callable[[Any], Any] | None
) -> Mapping[int, Preview]:
    """Previews of these samples of the training dataset; none without a dataset."""
    if dataset is None:
        if preview is not None:
            raise ValueError("preview= needs the dataset: suspected_samples(influence, dataset=…, preview=…)")
        return {}
    if isinstance(dataset, Sized) and len(dataset) != size:
        raise ValueError(
            f"expected the training dataset of {size} samples, found a {type(dataset).__name__} of length "
            f"{len(dataset)}: pass the one that influence was computed for, for instance train_dataloader.dataset"
        )
    found, failed = previews_of(dataset, index, preview)
    if failed:
        first, error = next(iter(failed.items()))
        reason = f"sample {first}: {type(error).__name__}: {error}"
        warn(f"no preview of {len(failed)} suspected samples, {reason}")
    elif not found:
        warn(
            "no previews: expected items with a picture or a text, found none. Pass a function that makes one of an "
            "item: suspected_samples(influence, dataset=…, preview=…)"
        )
    return found
