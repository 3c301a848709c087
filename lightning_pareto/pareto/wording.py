"""The verdict in words, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lightning_pareto.pareto.significance import LEAST_FOLDS

if TYPE_CHECKING:
    from lightning_pareto.pareto.verdict import ParetoVerdict


def describe(verdict: ParetoVerdict) -> str:
    """A readable report: the answer, why, a row for each category, and what to do next."""
    lines = [f"Pareto improvement possible: {verdict.answer.upper()}", *_reason(verdict), "", *_rows(verdict), ""]
    lines += [
        "Gain: predicted drop of the validation measure, in units of the mean absolute",
        "influence on the category; alone: if only this category mattered, in sample.",
        "Price: how much the category holds the others back.",
        f"Single samples: {verdict.regions.beneficial:.0%} help every category, {verdict.regions.harmful:.0%} harm "
        f"every one, {verdict.regions.trade_off:.0%} do both.",
        f"The paper's diagnostics: first principal axis {verdict.explained_variance_ratio[0]:.0%} of the variance,",
        f"distance from the trade-off plane {verdict.hyperplane_distance:.2f} of 1.",
        "",
        "First order at this model: only a second fit shows what is really gained.",
    ]
    if verdict.improvable and not verdict.underfitted:
        lines.append(f"Next: weights = reweight(influence, budget={verdict.budget:g}), then fit again on them.")
    return "\n".join(lines)


def _reason(verdict: ParetoVerdict) -> list[str]:
    lines = [f"Moving at most {verdict.budget:.0%} of the training mass: headroom {verdict.headroom:.3f} in sample."]
    if np.isnan(verdict.p_value):
        lines.append(f"Without {LEAST_FOLDS} validation folds nothing is proven: estimate_influence(..., folds=8).")
    else:
        worst = int(np.nanargmin(verdict.held_out_gain))
        low, high = verdict.worst_interval
        lines.append(
            f"Held out, the worst category ({verdict.class_names[worst]}) gains {verdict.held_out_gain[worst]:+.3f}, "
            f"{1 - 2 * verdict.level:.0%} interval {low:+.3f} to {high:+.3f};"
        )
        lines.append(f"p = {verdict.p_value:.2g} at level {verdict.level:g}.")
    if np.isinf(verdict.standard_error).any():
        lines.append(f"A category in fewer than {LEAST_FOLDS} validation folds proves nothing: add samples of it.")
    if verdict.answer == "not proven":
        lines += _lacking(verdict)
    if verdict.underfitted:
        lines.append("UNDERFITTED: plain further training would help every category. Train on first.")
    return lines


def _lacking(verdict: ParetoVerdict) -> list[str]:
    """Which categories stand in the way of a proof, the worst ones first."""
    needed = verdict.samples_needed
    rows = []
    for k in np.argsort(np.where(np.isnan(needed), -np.inf, -needed)):
        if np.isinf(needed[k]) and np.isfinite(verdict.standard_error[k]):
            rows.append(f"  {verdict.class_names[k]}: does not gain held out")
        elif np.isfinite(needed[k]) and needed[k] > verdict.support[k]:
            rows.append(
                f"  {verdict.class_names[k]}: {verdict.support[k]:.0f} validation samples, about {needed[k]:.0f} are "
                "needed if it gains as much as it seems"
            )
    return (["Not proven because of:", *rows[:6], *(["  …"] if len(rows) > 6 else [])]) if rows else []


def _rows(verdict: ParetoVerdict) -> list[str]:
    width = max(8, *(len(name) for name in verdict.class_names))
    rows = [f"{'category':<{width}}  held-out gain ± error   alone   price"]
    for k, name in enumerate(verdict.class_names):
        gain, error = verdict.held_out_gain[k], verdict.standard_error[k]
        if not verdict.present[k]:
            rows.append(f"{name:<{width}}  no validation samples")
            continue
        held_out = f"{gain:+13.3f} ± {error:5.3f}"
        if np.isnan(gain) or np.isinf(error):
            held_out = f"{'unknown' if np.isnan(gain) else 'too few samples':>21}"
        rows.append(f"{name:<{width}}  {held_out}   {verdict.alone[k]:+5.2f}   {verdict.prices[k]:5.2f}")
    return rows
