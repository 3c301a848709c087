"""Figures as SVG elements for the page, and small pictures as PNG."""

import base64
import io
import re
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from lightning_pareto.report.figures.canvas import axes_to_draw_in
from lightning_pareto.report.previews import Picture

INK = "#010203"
"""Placeholder for the page's text colour, which depends on the reader's light or dark mode."""

_SVG = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"
_STYLE = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)


def inline_svg(draw: Callable[[Any], Any], key: str, description: str, height: float, width: float = 4.6) -> str:
    """Draw a figure and return it as an ``<svg>`` element without references to anything outside it.

    Args:
        draw: draws into the axes that are passed to it.
        key: prefix that keeps the ids of this element apart from those of other figures.
        description: text for screen readers.
        height: height in inches.
        width: width in inches.

    Raises:
        ImportError: without matplotlib.
    """
    _, ax = axes_to_draw_in(None, height, width)  # says what to install
    import matplotlib

    style: Any = {**_STYLE, "svg.fonttype": "none", "svg.hashsalt": key, "font.family": "sans-serif", "font.size": 9}
    with warnings.catch_warnings(), matplotlib.rc_context(style):
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has its own fonts
        figure, ax = axes_to_draw_in(None, height, width)
        draw(ax)
        file = io.BytesIO()
        figure.savefig(file, format="svg", dpi=150, transparent=True, metadata={"Date": None})
    return _for_page(file.getvalue(), key, description)


def png_data(picture: Picture) -> str:
    """A picture, (H, W) or (H, W, 3) bytes, as a ``data:`` address of a PNG file."""
    from PIL import Image  # comes with matplotlib

    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


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
