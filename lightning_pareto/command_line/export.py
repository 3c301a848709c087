"""``lightning-pareto export``: results for other tools."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lightning_pareto.command_line.check import rows as verdict_rows
from lightning_pareto.command_line.inputs import FILES, find, read_kind
from lightning_pareto.command_line.output import say_json
from lightning_pareto.command_line.tables import WRITERS, Table, to_terminal
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.pareto.result import ParetoVerdict
from lightning_pareto.reweighting.weights import SampleWeights


def run(options: Any) -> int:
    """Write one table."""
    what = options.what or ("influence" if options.path.is_dir() else kind_of(options.path))
    table = _TABLES[what](options)
    form = format_of(options)
    if options.output is None:
        if form == "npz" or options.json:
            raise ValueError("npz and --json need a file to write: -o FILE")
        to_terminal(table, form, sys.stdout)
        return 0
    options.output.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[form](table, options.output)
    if options.json:
        found = {"written": str(options.output.resolve()), "what": what, "format": form}
        say_json(found | {"rows": len(table), "columns": table.names})
    return 0


def format_of(options: Any) -> str:
    """The format asked for, else that of the file's name, else CSV."""
    if options.to:
        return str(options.to)
    if options.output is None:
        return "csv"
    suffix = options.output.suffix.lstrip(".").lower()
    if suffix not in WRITERS:
        raise ValueError(f"what format is {options.output}? Name it: --to csv, --to json or --to npz")
    return str(suffix)


def kind_of(path: Path) -> str:
    """What an artifact holds."""
    kind = read_kind(find(path, "influence"))
    if kind not in FILES:
        raise ValueError(f"{path} holds {kind!r}; what can be written is {', '.join(FILES)}")
    return kind


def _influence(options: Any) -> Table:
    source = find(options.path, "influence")
    influence = InfluenceMatrix.load(source)
    return _of_samples(influence, np.arange(len(influence.labels)), _weights_for(options, source, influence))


def _suspects(options: Any) -> Table:
    if options.count < 1:
        raise ValueError(f"--count is how many suspects to list, at least 1, found {options.count}")
    source = find(options.path, "influence")
    influence = InfluenceMatrix.load(source)
    worst = influence.total().argsort(kind="stable")[: options.count]
    return _of_samples(influence, worst, _weights_for(options, source, influence))


def _of_samples(influence: InfluenceMatrix, index: np.ndarray, weights: SampleWeights | None) -> Table:
    columns = {
        "index": index,
        "label": influence.labels[index],
        "label_name": _label_names(influence, index),
        "predicted": None if influence.predicted is None else influence.predicted[index],
        "total": influence.total()[index],
        "influence": influence.scores[index],
        "weight": None if weights is None else weights.values[index],
    }
    return Table({name: column for name, column in columns.items() if column is not None}, influence.category_names)


def _label_names(influence: InfluenceMatrix, index: np.ndarray) -> np.ndarray | None:
    """Names of the labels, where the categories are the classes."""
    if influence.metadata.get("categories") == "own" or influence.labels.max() >= len(influence.category_names):
        return None
    names: np.ndarray = np.array(influence.category_names)[influence.labels[index]]
    return names


def _weights_for(options: Any, source: Path, influence: InfluenceMatrix) -> SampleWeights | None:
    """The weights given, or those beside the influence, if they are there."""
    beside = source.parent / FILES["weights"]
    if options.weights is None and not beside.is_file():
        return None
    path = beside if options.weights is None else find(options.weights, "weights")
    weights = SampleWeights.load(path)
    if len(weights) != len(influence.labels):
        raise ValueError(
            f"{path} holds {len(weights)} weights, the influence {len(influence.labels)} samples: they belong to "
            "another run. Give the right ones, --weights FILE"
        )
    return weights


def _weights(options: Any) -> Table:
    weights = SampleWeights.load(find(options.path, "weights"))
    return Table({"index": np.arange(len(weights)), "weight": weights.values})


def _verdict(options: Any) -> Table:
    rows = verdict_rows(ParetoVerdict.load(find(options.path, "verdict")))
    return Table({name: np.array([row[name] for row in rows]) for name in rows[0]})


_TABLES: Mapping[str, Callable[[Any], Table]] = {
    "influence": _influence,
    "suspects": _suspects,
    "weights": _weights,
    "verdict": _verdict,
}
