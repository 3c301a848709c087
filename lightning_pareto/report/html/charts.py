"""The figures of the report, as SVG elements for the page."""

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np

from lightning_pareto.pareto.result import ParetoVerdict
from lightning_pareto.report import figures
from lightning_pareto.report.figures.canvas import axes_to_draw_in, height_of_rows
from lightning_pareto.report.figures.verdict import trading_classes
from lightning_pareto.report.html.run import Run

CAPTIONS = {
    "headroom": "Dots: held-out gain of each class with its interval. A proof needs all of them above zero. Open "
    "diamonds and the dashed line: the gain in sample, which is always too good. Bars: shadow prices. Classes with a "
    "high price hold the others back.",
    "exchange_rates": "Relative gain that the column's class loses at the margin for one more unit of the row's class. "
    "Hatched classes have gain to spare and lose nothing yet.",
    "accuracy": "Validation accuracy of each class, with a 95 % interval for each model separately.",
    "frontier": "What each attempt gained against the ordinary model, by its number in the table. Crosses harm some "
    "class.",
    "ceiling": "Accuracy that each class has reached in any attempt without harm: the ceiling as far as it is known. "
    "The highest of several is a little too optimistic.",
    "step": "Accuracy of each class before and after the small step, with a 95 % interval for each model separately.",
    "influence": "Influence of each training sample on the two classes that trade off most. On the dashed line one "
    "class gains what the other loses. Samples in the lower left harm both.",
    "weights": "Share of each class whose weight falls (orange) or rises (blue).",
}
"""How to read each figure, for everyone, and as its description for screen readers."""

MANY_ROWS = 30
"""Number of classes above which a figure with a row for each is taller than a screen."""

INK = "#010203"
"""Placeholder for the page's text colour, which depends on the reader's light or dark mode."""

_SVG = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"
_STYLE = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)


@dataclass(frozen=True)
class Chart:
    """A figure: its ``<svg>`` element, its caption, and whether it is taller than a screen."""

    svg: str
    caption: str
    tall: bool


def charts(run: Run) -> dict[str, Chart]:
    """Every figure that the results allow, by name."""
    found = dict[str, Chart]()

    def add(name: str, draw: Callable[[Any], Any], height: float, width: float = 4.6, tall: bool = False) -> None:
        found[name] = Chart(inline_svg(draw, name, CAPTIONS[name], height, width), CAPTIONS[name], tall)

    def add_rows(name: str, draw: Callable[[Any], Any], rows: int) -> None:
        add(name, draw, height_of_rows(rows), tall=rows > MANY_ROWS)

    verdict, influence, weights, result = run.verdict, run.influence, run.weights, run.result
    if verdict is not None:
        add_rows("headroom", lambda ax: figures.plot_headroom(verdict, ax), len(run.category_names))
        side = float(np.clip(2.2 + 0.28 * len(trading_classes(verdict)), 3.4, 6.5))
        add("exchange_rates", lambda ax: figures.plot_exchange_rates(verdict, ax), side, max(side, 4.6))
    if result is not None:
        add_rows("accuracy", lambda ax: figures.plot_accuracy(result, ax=ax), len(run.category_names))
        if result.attempts:
            add("frontier", lambda ax: figures.plot_frontier(result, ax), 3.6)
            add_rows("ceiling", lambda ax: figures.plot_ceiling(result, ax), len(run.category_names))
    elif run.step is not None:
        add_rows("step", run.step.plot, len(run.category_names))
    if influence is not None and verdict is not None and (pair := _strongest_trade_off(verdict)) is not None:
        add("influence", lambda ax: figures.plot_influence(influence, *pair, ax=ax), 4.8)
    if influence is not None and weights is not None and len(weights) == len(influence.labels):
        labels, names = influence.labels, run.class_names or None
        rows = max(int(labels.max()) + 1, len(run.class_names))
        add_rows("weights", lambda ax: figures.plot_weights(weights, labels, names, ax), rows)
    return found


def _strongest_trade_off(verdict: ParetoVerdict) -> tuple[str, str] | None:
    """The two classes whose influences have the lowest correlation. None with fewer than two classes."""
    opposed = np.where(np.eye(len(verdict.category_names), dtype=bool), np.nan, verdict.correlation)
    if np.isnan(opposed).all():
        return None
    a, b = np.unravel_index(np.nanargmin(opposed), opposed.shape)
    return verdict.category_names[a], verdict.category_names[b]


def inline_svg(draw: Callable[[Any], Any], key: str, description: str, height: float, width: float = 4.6) -> str:
    """Draw into axes of this size in inches, and return an ``<svg>`` element that refers to nothing outside it.

    The key keeps the ids of this element apart from those of other figures. The description is for screen readers.
    """
    axes_to_draw_in(None, height, width)  # says what to install
    import matplotlib

    style: Any = {**_STYLE, "svg.fonttype": "none", "svg.hashsalt": key, "font.family": "sans-serif", "font.size": 9}
    with warnings.catch_warnings(), matplotlib.rc_context(style):
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has its own fonts
        figure, ax = axes_to_draw_in(None, height, width)
        draw(ax)
        file = io.BytesIO()
        figure.savefig(file, format="svg", dpi=150, transparent=True, metadata={"Date": None})
    return _for_page(file.getvalue(), key, description)


def _for_page(svg: bytes, key: str, description: str) -> str:
    """Keep elements and text only, make ids unique on the page, and use the page's text colour."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        for name, value in list(element.attrib.items()):
            if name == "id":
                element.set("id", f"{key}-{value}")
            elif name == _HREF:
                del element.attrib[_HREF]
                element.set("href", f"#{key}-{value[1:]}" if value.startswith("#") else value)
            else:
                value = re.sub(r"url\(#([\w-]+)\)", rf"url(#{key}-\1)", value)
                element.set(name, value.replace(INK, "currentColor"))
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-label": description, "class": "figure"}
    return ElementTree.tostring(root, encoding="unicode")
