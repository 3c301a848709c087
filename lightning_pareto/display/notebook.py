"""Results in a notebook: small HTML tables and data frames."""

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

MOST_ROWS = 20

_NUMBER = "padding: 2px 10px; text-align: right; font-variant-numeric: tabular-nums"
_NAME = "padding: 2px 10px; text-align: left"


class Html(str):
    """Text that is HTML already. Whoever makes it has escaped what comes from data."""

    __slots__ = ()

    def __html__(self) -> str:
        """Let Jinja leave it as it is."""
        return self


def html_table(
    title: str, columns: Mapping[str, Sequence[Any]], notes: Sequence[str] = (), left: Collection[str] = ()
) -> str:
    """A title in bold, a paragraph for each note, and a table of at most 20 rows, everything but :class:`Html` escaped.

    The columns are cells by heading, the first for names. It is aligned to the left, as are those with a heading in
    ``left``. Without columns there is no table.
    """
    lines = [f"<p><strong>{escape(title)}</strong></p>", *(f"<p>{escape(note)}</p>" for note in notes)]
    rows = list(zip(*columns.values(), strict=True))
    if rows:
        styles = [_NUMBER if i and heading not in left else _NAME for i, heading in enumerate(columns)]
        lines.append(f"<table><thead>{_row('th', columns, styles)}</thead><tbody>")
        lines += [_row("td", row, styles) for row in rows[:MOST_ROWS]]
        lines.append("</tbody></table>")
    if len(rows) > MOST_ROWS:
        lines.append(f"<p>… {len(rows) - MOST_ROWS} more: .to_pandas()</p>")
    return f"<div>{''.join(lines)}</div>"


def data_frame(columns: Mapping[str, Any], index: Any, name: str) -> Any:
    """A ``pandas.DataFrame`` from values by heading, and an index with its name.

    Raises:
        ImportError: without pandas, with the command that installs it.
    """
    try:
        import pandas as pd  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise ImportError("to_pandas() needs pandas: pip install pandas") from error
    return pd.DataFrame(dict(columns), index=pd.Index(index, name=name))


def _row(tag: str, values: Any, styles: Sequence[str]) -> str:
    texts = [value if isinstance(value, Html) else escape(str(value)) for value in values]
    cells = "".join(f'<{tag} style="{style}">{text}</{tag}>' for style, text in zip(styles, texts, strict=True))
    return f"<tr>{cells}</tr>"
