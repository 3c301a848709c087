"""How previews are shown: in a line of text, and in HTML."""

from html import escape

from lightning_pareto.display.notebook import Html
from lightning_pareto.display.terminal import printable
from lightning_pareto.report.previews import Preview, png_data

WIDTH = 20
"""Columns of a preview in a line of text."""


def preview_text(preview: Preview) -> str:
    """The beginning of a text in one line of at most 20 columns, or ``picture 28×28`` (height × width in pixels)."""
    if isinstance(preview, str):
        return printable(" ".join(preview.split()), WIDTH)
    height, width = preview.shape[:2]
    return f"picture {height}×{width}"


def preview_html(preview: Preview, name: str) -> Html:
    """The picture, with a name for those who cannot see it, or the escaped text.

    Without Pillow, a picture becomes its :func:`preview_text`.
    """
    if isinstance(preview, str):
        return Html(f'<blockquote style="margin: 0; white-space: pre-wrap">{escape(preview)}</blockquote>')
    try:
        source = png_data(preview)
    except ImportError:
        return Html(escape(preview_text(preview)))
    size = 'width="96" height="96" style="object-fit: contain; image-rendering: pixelated"'
    return Html(f'<img src="{source}" alt="{escape(name)}" {size}>')
