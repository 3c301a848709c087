"""The verdict in words, for a terminal of 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_pareto.display.terminal import columns, harmless, listed, padded, paragraph
from lightning_pareto.pareto.significance import ENOUGH_SAMPLES, LEAST_FOLDS, LEAST_SAMPLES

if TYPE_CHECKING:
    from lightning_pareto.pareto.result import ParetoVerdict

MOST_ROWS = 12
"""Categories shown in full; of more, the worst."""


def describe(verdict: ParetoVerdict) -> str:
    """A readable report: the answer, why, a row for each category, and what to do next."""
    regions = verdict.regions
    lines = [f"Pareto improvement possible: {verdict.answer.upper()}", *_reason(verdict), "", *_rows(verdict), ""]
    lines += [
        *paragraph(
            "Gain: predicted drop of the validation measure, in units of the mean absolute influence on the category; "
            "alone: if only this category mattered, in sample. Price: how much the category holds the others back."
        ),
        *paragraph(
            f"Single samples: {regions.beneficial:.0%} help every category, {regions.harmful:.0%} harm every one, "
            f"{regions.trade_off:.0%} do both."
        ),
        *paragraph(
            "The paper's diagnostics: first principal axis "
            f"{verdict.explained_variance_ratio[0]:.0%} of the variance, distance from the trade-off plane "
            f"{verdict.hyperplane_distance:.2f} of 1."
        ),
        "",
        *paragraph(
            "First order at this model: it tells whether there is something to gain, not how much a second fit keeps "
            "of it, nor which category gains most. Only a second fit shows that."
        ),
    ]
    if verdict.improvable and not verdict.underfitted:
        options = f"budget={verdict.budget:g}" + ("" if _all_asked(verdict) else ", targets=[...]")
        lines += paragraph(f"Next: weights = reweight(influence, {options}), then fit again on them.")
    return "\n".join(lines)


def _all_asked(verdict: ParetoVerdict) -> bool:
    return bool((verdict.targets | ~verdict.present).all())


def _reason(verdict: ParetoVerdict) -> list[str]:
    text = f"Moving at most {verdict.budget:.0%} of the training mass: headroom {verdict.headroom:.3f} in sample."
    if not _all_asked(verdict):
        chosen = [name for name, target in zip(verdict.category_names, verdict.targets, strict=True) if target]
        text = f"Asked for {listed(chosen)}; the others are to hold their floors. {text}"
    lines = paragraph(text)
    if np.isnan(verdict.p_value):
        lines += paragraph(
            f"Without {LEAST_FOLDS} validation folds nothing is proven: estimate_influence(..., folds=8)."
        )
    else:
        lines += paragraph(_held_out(verdict))
    if np.isinf(verdict.standard_error).any():
        lines += paragraph(
            f"A category in fewer than {LEAST_FOLDS} validation folds proves nothing: add samples of it."
        )
    if np.nansum(verdict.support) < ENOUGH_SAMPLES and np.isfinite(verdict.support).all():
        lines += paragraph(f"Fewer than {ENOUGH_SAMPLES} validation samples in all prove nothing.")
    if verdict.answer == "not proven":
        lines += _not_proven(verdict)
    if verdict.underfitted:
        lines += paragraph("UNDERFITTED: plain further training would help every category. Train on first.")
    return lines


def _held_out(verdict: ParetoVerdict) -> str:
    worst = int(np.nanargmin(np.where(verdict.targets, verdict.held_out_gain, np.nan)))
    low, high = verdict.worst_interval
    return (
        f"Held out, the worst {'category' if _all_asked(verdict) else 'target'} "
        f"({harmless(verdict.category_names[worst])}) gains {verdict.held_out_gain[worst]:+.3f}, "
        f"{1 - 2 * verdict.level:.0%} interval {low:+.3f} to {high:+.3f}; p = {verdict.p_value:.2g} at level "
        f"{verdict.level:g}{'' if _all_asked(verdict) else ', the floors of the others included'}."
    )


def lacking(verdict: ParetoVerdict) -> list[tuple[int, str]]:
    """Numbers of the categories that stand in the way of a proof and what they lack, the worst ones first."""
    needed = verdict.samples_needed
    rows = []
    for k in np.argsort(np.where(np.isnan(needed), -np.inf, -needed), kind="stable"):
        if np.isinf(needed[k]) and np.isfinite(verdict.standard_error[k]):
            rows.append((int(k), "does not gain held out" if verdict.targets[k] else "does not hold its floor"))
        elif np.isfinite(needed[k]) and needed[k] > verdict.support[k]:
            least = f" ({LEAST_SAMPLES} at least)" if needed[k] <= LEAST_SAMPLES else ""
            rows.append(
                (int(k), f"{verdict.support[k]:.0f} validation samples, about {needed[k]:.0f} are needed{least}")
            )
    return rows


def _not_proven(verdict: ParetoVerdict) -> list[str]:
    rows = [f"  {harmless(verdict.category_names[k])}: {what}" for k, what in lacking(verdict)]
    if not rows:
        return []
    more = [f"  … and {len(rows) - 6} more"] if len(rows) > 6 else []
    return ["Not proven because of (samples needed if it gains as much as it seems):", *rows[:6], *more]


def _rows(verdict: ParetoVerdict) -> list[str]:
    """A row for each category, of many the worst ones."""
    shown, more = np.arange(len(verdict.category_names)), []
    if len(shown) > MOST_ROWS:
        bound = np.where(np.isfinite(verdict.standard_error), verdict.lower_bound - verdict.bar, -np.inf)
        bound = np.where(np.isfinite(bound), bound, -np.inf)
        ranked = np.lexsort((verdict.held_out_gain, bound, ~verdict.present))
        known = int(verdict.present.sum())
        shown = ranked[: min(known, MOST_ROWS)]
        if known > MOST_ROWS:
            more.append(f"… and {known - MOST_ROWS} more, all of them surer to gain")
        if known < len(ranked):
            more.append(f"… and {len(ranked) - known} without validation samples")
    names = {k: harmless(verdict.category_names[k]) for k in shown}
    width = max(8, *(columns(name) for name in names.values()))
    asked = "" if _all_asked(verdict) else "   asked"
    rows = [f"{'category':<{width}}  held-out gain ± error   alone   price{asked}"]
    rows += [f"{padded(name, width)}  {_row(verdict, int(k))}" for k, name in names.items()]
    return rows + more


def _row(verdict: ParetoVerdict, k: int) -> str:
    if not verdict.present[k]:
        return "no validation samples"
    gain, error = verdict.held_out_gain[k], verdict.standard_error[k]
    held_out = f"{gain:+13.3f} ± {error:5.3f}"
    if np.isnan(gain) or np.isinf(error):
        held_out = f"{'unknown' if np.isnan(gain) else 'too few samples':>21}"
    asked = "" if _all_asked(verdict) else ("    gain" if verdict.targets[k] else f"{verdict.floors[k]:+8.3f}")
    return f"{held_out}   {verdict.alone[k]:+5.2f}   {verdict.prices[k]:5.2f}{asked}"
