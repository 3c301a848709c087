"""How results show themselves in a notebook: small HTML tables, and data frames."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

MOST_ROWS = 20

_CELL = "padding: 2px 10px; text-align: right; font-variant-numeric: tabular-nums"
_FIRST = "padding: 2px 10px; text-align: left"


def html_table(title: str, columns: Mapping[str, Sequence[Any]], notes: Sequence[str] = ()) -> str:
    """A title, lines below it and a table of at most 20 rows, everything escaped.

    Args:
        title: in bold.
        columns: cells by heading, the first of them names; a list of no columns gives no table.
        notes: one line each, between title and table.
    """
    lines = [f"<p><strong>{escape(title)}</strong></p>", *(f"<p>{escape(note)}</p>" for note in notes)]
    rows = list(zip(*columns.values(), strict=True))
    if rows:
        heads = "".join(f'<th style="{_style(n)}">{escape(head)}</th>' for n, head in enumerate(columns))
        lines.append(f"<table><thead><tr>{heads}</tr></thead><tbody>")
        for row in rows[:MOST_ROWS]:
            cells = "".join(f'<td style="{_style(n)}">{escape(str(cell))}</td>' for n, cell in enumerate(row))
            lines.append(f"<tr>{cells}</tr>")
        lines.append("</tbody></table>")
    if len(rows) > MOST_ROWS:
        lines.append(f"<p>… {len(rows) - MOST_ROWS} more: .to_pandas()</p>")
    return f"<div>{''.join(lines)}</div>"


def numbers(values: Any, form: str) -> list[str]:
    """Numbers as text, a dash where there is none."""
    return ["–" if np.isnan(value) else form.format(value) for value in np.asarray(values, dtype=np.float64)]


def data_frame(columns: Mapping[str, Any], index: Any, name: str) -> Any:
    """A ``pandas.DataFrame``.

    Args:
        columns: values by heading.
        index: of the rows.
        name: of the index.

    Raises:
        ImportError: without pandas, with the command that installs it.
    """
    try:
        import pandas as pd  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise ImportError("to_pandas() needs pandas: pip install pandas") from error
    return pd.DataFrame(dict(columns), index=pd.Index(index, name=name))


def _style(column: int) -> str:
    return _CELL if column else _FIRST
