"""The story of an analysis in words: the order, what is said when, and that it fits a terminal."""

from dataclasses import replace

import numpy as np
import pytest

from lightning_pareto import Analysis, Outcome, check_pareto
from lightning_pareto.display.terminal import WIDTH
from tests.report._results import influence, outcomes


def analysis(k=3, **options):
    matrix = influence(k, **options)
    return Analysis(matrix, check_pareto(matrix), None, *outcomes(k))


def test_story_comes_in_the_order_of_the_readers_questions():
    found = analysis()
    text = " ".join(str(found).split())
    parts = [
        "Pareto improvement possible: YES",
        "The model can still improve on every class with these data",
        f"Accuracy today, on 180 validation samples: {found.outcome.macro:.1%}".replace("%", " %"),
        "mostly mistaken for",
        "Measured: one small step",
        f"{100 * found.step.macro:+.1f} points",
        "Next: Fit again with the weights",
        "weights = reweight(influence)",
        "headroom",
        "held-out gain",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert max(map(len, str(found).splitlines())) <= WIDTH
    page = found._repr_html_()
    places = [page.index(part) for part in ("The model can still", "Accuracy today", "one small step", "Evidence")]
    assert places[:2] == sorted(places[:2])
    assert page.index("Next: ") < page.index("Evidence")
    assert repr(found) == "Analysis('yes')"


def test_classes_come_lowest_first_with_what_they_are_mistaken_for():
    names = ["cat", "dog", "cow"]
    labels = [0] * 10 + [1] * 10 + [2] * 10
    before = [0] * 9 + [1] + [1] * 6 + [0] * 3 + [2] + [2] * 10
    matrix = influence(3, names=names)
    found = Analysis(matrix, check_pareto(matrix), None, Outcome.of(labels, before, names))
    rows = [line.split() for line in str(found).split("\n\n")[2].splitlines()]
    assert [row[0] for row in rows] == ["class", "dog", "cat", "cow"]
    assert rows[1][1:] == ["60.0", "10", "cat", "(30%)"]
    assert rows[3][1:] == ["100.0", "10", "–"]
    assert found.step is None
    assert "one small step" not in str(found)


def test_many_classes_show_the_lowest():
    lines = str(analysis(40)).splitlines()
    assert "… and 28 more with a higher accuracy" in lines


@pytest.mark.parametrize(
    ("answer", "said", "following"),
    [
        ("no", "this is the ceiling of these data", "Keep the weights as they are"),
        ("not proven", "It is not shown that the model can still improve on every class", "Keep the weights"),
        ("underfitted", "The model is not trained to its end", "Train longer"),
    ],
)
def test_every_answer_says_what_to_do(answer, said, following):
    verdict = check_pareto(influence(3))
    low = {
        "no": {"p_value": 0.5, "headroom": 0.0},
        "not proven": {"p_value": 0.5},
        "underfitted": {"drift": np.full(3, 0.5)},
    }
    verdict = replace(verdict, **low[answer])
    assert verdict.answer == answer
    text = " ".join(str(Analysis(influence(3), verdict, None, outcomes()[0])).split())
    assert said in text
    assert f"Next: {following}" in text
    helped = " ".join(str(Analysis(influence(3), verdict, None, *outcomes(each=300))).split())
    assert ("so this is not the ceiling" in helped) == (answer == "not proven")
    assert ("The step helps although the verdict promises nothing" in helped) == (answer != "underfitted")


def test_falls_and_rises_beyond_chance_are_named():
    before, after = outcomes(each=400)
    worse = replace(after, correct=after.correct & (after.category != 1))
    matrix = influence(3)
    found = Analysis(matrix, check_pareto(matrix), None, before, worse)
    assert found.step.lost().tolist() == [False, True, False]
    text = " ".join(str(found).split())
    assert "class 1 down" in text
    assert "▼ " in text
    assert "▲ " in text
    nothing = Analysis(matrix, check_pareto(matrix), None, before, before)
    assert "Nothing changes beyond chance" in " ".join(str(nothing).split())
