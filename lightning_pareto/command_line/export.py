"""``lightning-pareto export``: tables for other tools, as CSV, JSON or npz."""

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from lightning_pareto.command_line.inputs import FILES, find, kind_of
from lightning_pareto.command_line.output import as_json, say
from lightning_pareto.display.terminal import printable_line
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.pareto.result import ParetoVerdict
from lightning_pareto.report.samples import suspected_samples
from lightning_pareto.reweighting.weights import SampleWeights

FORMATS = ("csv", "json", "npz")


def run(options: Any) -> int:
    """Write one table."""
    what = options.what or ("influence" if options.path.is_dir() else kind_of(options.path))
    frame, form = _frame(what, options), _format_of(options)
    if options.output is None:
        if form == "npz" or options.json:
            raise ValueError("npz and --json need an output file: -o FILE")
        text = _as_text(frame, form)
        text = "\n".join(map(printable_line, text.split("\n"))) if sys.stdout.isatty() else text
        sys.stdout.writelines(io.StringIO(text))  # line by line, to notice early that nobody reads on
        return 0
    options.output.parent.mkdir(parents=True, exist_ok=True)
    if form == "npz":
        _save_arrays(frame, options.output)
    else:
        options.output.write_text(_as_text(frame, form), encoding="utf-8")
    if options.json:
        found = {"written": str(options.output.resolve()), "what": what, "format": form}
        say(as_json(found | {"rows": len(frame), "columns": [frame.index.name, *frame.columns]}))
    return 0


def _frame(what: str, options: Any) -> Any:
    """The data frame to write, with the names of the labels and the weights of the samples if there are any."""
    if what == "verdict":
        return ParetoVerdict.load(find(options.path, "verdict")).to_pandas()
    if what == "weights":
        return SampleWeights.load(find(options.path, "weights")).to_pandas()
    source = find(options.path, "influence")
    influence = InfluenceMatrix.load(source)
    table = influence if what == "influence" else suspected_samples(influence, options.count)
    frame = table.to_pandas()
    if influence.class_names:
        frame.insert(1, "given_name", np.array(influence.class_names)[frame["given"]])
    weights = _weights_for(options, source, influence)
    return frame if weights is None else frame.assign(weight=weights.values[frame.index])


def _weights_for(options: Any, source: Path, influence: InfluenceMatrix) -> SampleWeights | None:
    """The given weights, otherwise the weights next to the influence, if there are any."""
    beside = source.parent / FILES["weights"]
    if options.weights is None and not beside.is_file():
        return None
    path = beside if options.weights is None else find(options.weights, "weights")
    weights = SampleWeights.load(path)
    if len(weights) != len(influence.labels):
        raise ValueError(
            f"expected {len(influence.labels)} weights, one per sample, found {len(weights)} in {path}. They belong to "
            "another run: pass the right ones with --weights FILE"
        )
    return weights


def _as_text(frame: Any, form: str) -> str:
    """A data frame as CSV or JSON with its index as the first column. Missing values are empty or null."""
    rows = frame.reset_index()
    if form == "csv":
        return str(rows.to_csv(index=False, lineterminator="\n"))
    return str(rows.to_json(orient="records", double_precision=15)) + "\n"


def _save_arrays(frame: Any, path: Path) -> None:
    """Write each column of a data frame as an array. ``numpy.savez`` would not take a category called ``file``."""
    rows = frame.reset_index()
    with zipfile.ZipFile(path, "w") as archive:
        for name in rows:
            values = np.asarray(rows[name])
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, values.astype(str) if values.dtype == object else values)


def _format_of(options: Any) -> str:
    """The requested format, otherwise that of the file name, otherwise CSV."""
    if options.to or options.output is None:
        return str(options.to or "csv")
    suffix = options.output.suffix.lstrip(".").lower()
    if suffix not in FORMATS:
        raise ValueError(f"expected a file name that ends in .csv, .json or .npz, or --to, found {options.output}")
    return str(suffix)
