"""The sentences of the report: what the results mean, and when not to trust them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress

import numpy as np

from lightning_pareto.display.terminal import listed, printable
from lightning_pareto.evaluation.change import ClasswiseChange
from lightning_pareto.evaluation.result import ParetoResult
from lightning_pareto.pareto.result import ParetoVerdict
from lightning_pareto.pareto.significance import ENOUGH_SAMPLES
from lightning_pareto.pareto.wording import (
    NO_FOLDS,
    TOO_FEW_SAMPLES,
    obstacles,
)
from lightning_pareto.report.html.run import Run

NOTABLE_FALL = 0.05
"""p-value up to which a fall is reported, although one such p-value among many classes proves nothing."""

MOST_FALLS = 6
"""Falls that are reported by name."""


@dataclass(frozen=True)
class Fact:
    """A number of the evidence, formatted, with its explanation in a sentence or two."""

    name: str
    value: str
    meaning: str


def result_line(result: ParetoResult) -> str:
    """What a search has found, in one sentence."""
    if not result.accepted:
        return f"No better model was accepted. {result.reason}"
    means = f"{np.nanmean(result.before):.1%} before, {np.nanmean(result.after):.1%} after"
    return f"A better model was accepted: mean accuracy over the classes {means}. {result.reason}"


def evidence(verdict: ParetoVerdict) -> Iterator[Fact]:
    """The numbers behind a verdict and what they mean."""
    yield Fact(
        "Headroom, in sample",
        f"{verdict.headroom:.3f}",
        "The largest gain that all targets can have at once, in units of each class's mean absolute influence, "
        f"moving at most {verdict.budget:.0%} of the training mass. It is nearly always above zero and proves "
        "nothing alone.",
    )
    if not np.isnan(verdict.p_value):
        worst, (low, high) = verdict.worst, verdict.worst_interval
        yield Fact(
            "Least held-out gain",
            f"{verdict.held_out_gain[worst]:+.3f}",
            f"{printable(verdict.category_names[worst])} gains least on validation samples that did not determine the "
            f"weights. {1 - 2 * verdict.level:.0%} interval: {low:+.3f} to {high:+.3f}. A proof needs an interval "
            f"above zero and a gain above {verdict.min_gain:g}.",
        )
        which, beyond = ("At most", "beyond") if verdict.p_value <= verdict.level else ("Above", "not beyond")
        yield Fact(
            "p-value",
            f"{verdict.p_value:.2g}" if verdict.p_value >= 1e-4 else "< 0.0001",
            "How likely gains this large are by chance if some class does not gain. "
            f"{which} {verdict.level:g}: {beyond} chance.",
        )
    regions = verdict.regions
    yield Fact(
        "Single samples",
        f"{regions.harmful:.0%} harm all",
        f"{regions.beneficial:.0%} of the training samples help every class, {regions.harmful:.0%} harm every class, "
        f"{regions.trade_off:.0%} help some and harm others.",
    )


def cautions(run: Run) -> Iterator[str]:
    """When not to trust the report: what applies to this run first, then what always applies."""
    if run.verdict is not None:
        yield from _about_verdict(run.verdict, run.step)
    if run.result is not None:
        yield from _about_result(run.result)
    yield (
        "Influence is a first-order statement about one model. It says whether there is something to gain. Only a "
        "second fit, over several seeds, shows how much of it is kept, and by which classes."
    )
    if run.influence is not None:
        yield "A harmful sample is only suspected of a wrong label. Rare but correct samples can harm on average too."


def _about_result(result: ParetoResult) -> Iterator[str]:
    changes = 100 * (result.after - result.before)
    falls = np.flatnonzero(result.p_values <= NOTABLE_FALL)
    if len(falls):
        names = [f"{printable(result.category_names[k])} ({changes[k]:+.1f} points)" for k in falls[:MOST_FALLS]]
        more = f" and {len(falls) - MOST_FALLS} more" if len(falls) > MOST_FALLS else ""
        yield (
            f"For a single class, a fall this large is rarely chance: {', '.join(names)}{more}. Among many classes it "
            "can be. Check these classes on other data."
        )
    yield (
        "The accuracies before and after are validation accuracies, and validation data chose the model. Measure it "
        "again on data that no decision has used."
    )


def _about_verdict(verdict: ParetoVerdict, step: ClasswiseChange | None) -> Iterator[str]:
    if verdict.underfitted:
        yield "The model is underfitted: what looks like a gain from reweighting may only be a gain from more training."
    if np.isnan(verdict.p_value):
        yield NO_FOLDS
    if absent := listed(compress(verdict.category_names, ~verdict.present)):
        yield f"Classes without validation samples are not tested: {absent}."
    if few := listed(compress(verdict.category_names, np.isinf(verdict.standard_error))):
        yield f"Too few validation samples to prove anything about {few}."
    if np.isfinite(verdict.support).all() and verdict.support.sum() < ENOUGH_SAMPLES:
        yield TOO_FEW_SAMPLES
    if verdict.answer == "not proven":
        yield "Not proven does not mean no: more validation samples may still show a small gain."
        if step is None or step.answer != "better":
            yield "Do not use weights if nothing is proven. On clean data such weights did harm."


def distance_from_proof(verdict: ParetoVerdict) -> list[tuple[str, str]]:
    """Classes that prevent a proof and what each lacks, the worst first. Empty if there is no test."""
    rows = obstacles(verdict) if verdict.answer == "not proven" else []
    return [(printable(verdict.category_names[k], 60), lack) for k, lack in rows]
