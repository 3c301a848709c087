"""What the results mean, in sentences."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lightning_pareto.display.terminal import listed, printable
from lightning_pareto.evaluation.result import ParetoResult
from lightning_pareto.pareto.result import ParetoVerdict
from lightning_pareto.pareto.significance import ENOUGH_SAMPLES
from lightning_pareto.pareto.wording import NO_FOLDS, TOO_FEW_SAMPLES, asks_for_all, obstacles, target_names
from lightning_pareto.report.html.run import Run

ALONE = 0.05
"""p of a fall from which on a class is named, though it alone proves nothing among many."""


@dataclass(frozen=True)
class Fact:
    """A figure of the evidence.

    Attributes:
        name: what it is.
        value: in digits.
        meaning: in a sentence or two.
    """

    name: str
    value: str
    meaning: str


def verdict_line(verdict: ParetoVerdict) -> str:
    """The verdict in one sentence."""
    everybody = asks_for_all(verdict)
    who = "every class" if everybody else f"{target_names(verdict)} (while the others hold their floors)"
    if np.isnan(verdict.p_value) and verdict.answer != "no":
        return f"Nothing is proven: without held-out folds nobody can say whether {who} can still gain."
    if verdict.answer == "yes" and verdict.underfitted:
        return f"Yes, but the model is underfitted: {who} would gain from plain further training. Train on first."
    return {
        "yes": f"Yes: {who} can still gain from reweighting the training data, and held-out validation data show it.",
        "no": f"No: within the budget no reweighting of the training data helps {who} at once, not even in sample.",
        "not proven": f"Not proven: held-out validation data do not show that {who} can still gain.",
    }[verdict.answer]


def badge(verdict: ParetoVerdict | None) -> str:
    """The verdict in a word or two; empty without one."""
    if verdict is None:
        return ""
    return "underfitted" if verdict.improvable and verdict.underfitted else verdict.answer


def result_line(result: ParetoResult) -> str:
    """The second fit in one sentence."""
    before, after = np.nanmean(result.before), np.nanmean(result.after)
    if result.accepted:
        return (
            f"A second fit with weights was accepted: mean accuracy over the classes {before:.1%} before, {after:.1%} "
            f"after. {_sentence(result.reason)}"
        )
    return f"A second fit with weights was tried and not accepted. {_sentence(result.reason)}"


def evidence(verdict: ParetoVerdict) -> Iterator[Fact]:
    """The figures behind a verdict and what they mean."""
    yield Fact(
        "Headroom, in sample",
        f"{verdict.headroom:.3f}",
        "The largest gain that all asked-for classes can have at once, in units of each class's mean absolute "
        f"influence, moving at most {verdict.budget:.0%} of the training mass. Nearly always above zero: alone it "
        "proves nothing.",
    )
    if not np.isnan(verdict.p_value):
        worst, (low, high) = verdict.worst, verdict.worst_interval
        yield Fact(
            "Least held-out gain",
            f"{verdict.held_out_gain[worst]:+.3f}",
            f"{printable(verdict.category_names[worst])} gains least on validation samples that the weights were not "
            f"made from; {1 - 2 * verdict.level:.0%} interval {low:+.3f} to {high:+.3f}. A proof takes an interval "
            f"above zero, and a gain above {verdict.min_gain:g} to matter.",
        )
        yield Fact(
            "p-value",
            f"{verdict.p_value:.2g}" if verdict.p_value >= 1e-4 else "< 0.0001",
            "How easily such gains come by luck if some class does not gain. "
            + (
                f"At most {verdict.level:g}: beyond chance."
                if verdict.p_value <= verdict.level
                else f"Above {verdict.level:g}: not beyond chance."
            ),
        )
    regions = verdict.regions
    yield Fact(
        "Single samples",
        f"{regions.harmful:.0%} harm all",
        f"{regions.beneficial:.0%} of the training samples help every class, {regions.harmful:.0%} harm every class, "
        f"{regions.trade_off:.0%} help some and harm others.",
    )


def cautions(run: Run) -> Iterator[str]:
    """When not to trust what the report says, the particular before the general."""
    if run.verdict is not None:
        yield from _about_verdict(run.verdict)
    if run.result is not None:
        yield from _about_falls(run.result)
        yield (
            "The accuracies before and after are validation accuracies, and validation chose the model: measure it "
            "once more on data that no decision has seen."
        )
    yield (
        "Influence is first order at one model: it tells whether there is something to gain, not how much a second "
        "fit keeps of it, nor which class gains most. Only a second fit, over several seeds, shows that."
    )
    if run.influence is not None:
        yield "A harmful sample is a suspect, not a wrong label: rare but right samples can harm on average too."


def _about_falls(result: ParetoResult) -> Iterator[str]:
    falls = np.flatnonzero(result.p_values <= ALONE)
    if len(falls):
        listed_falls = ", ".join(
            f"{printable(result.category_names[k])} ({100 * (result.after[k] - result.before[k]):+.1f} points)"
            for k in falls[:6]
        )
        yield (
            f"Looked at alone, a fall this large is rarely chance: {listed_falls}. Among all the classes together it "
            "may be; watch it on other data."
        )


def _about_verdict(verdict: ParetoVerdict) -> Iterator[str]:
    if verdict.underfitted:
        yield "The model is underfitted: what looks like a gain by reweighting may be no more than more training."
    if np.isnan(verdict.p_value):
        yield NO_FOLDS
    absent = [name for name, there in zip(verdict.category_names, verdict.present, strict=True) if not there]
    if absent:
        yield f"Nothing is said about classes without validation samples: {listed(absent)}."
    if np.isinf(verdict.standard_error).any():
        few = [name for name, e in zip(verdict.category_names, verdict.standard_error, strict=True) if np.isinf(e)]
        yield f"Too few validation samples to prove anything about {listed(few)}."
    if np.isfinite(verdict.support).all() and verdict.support.sum() < ENOUGH_SAMPLES:
        yield TOO_FEW_SAMPLES
    if verdict.answer == "not proven":
        yield "Not proven is not the same as no: with more validation samples a small gain may yet show."
        yield "Where nothing is proven, leave the weights alone: on clean data such weights did harm."


def distance_from_proof(verdict: ParetoVerdict) -> list[tuple[str, str]]:
    """Classes that stand in the way of a proof and what they lack, the worst first; empty where there is no test."""
    if verdict.answer != "not proven" or np.isnan(verdict.p_value):
        return []
    return [(printable(verdict.category_names[k], 60), what) for k, what in obstacles(verdict)]


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:]
