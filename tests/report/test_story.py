"""The story of an analysis in words: the order, what is said when, and that it fits a terminal."""

from dataclasses import replace

import numpy as np
import pytest

from lightning_pareto import Analysis, InfluenceMatrix, Outcome, check_pareto
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
        "The model can still improve on every class, to first order.",
        f"Accuracy today, on 180 validation samples: {found.outcome.macro:.1%}".replace("%", " %"),
        "mostly mistaken for",
        "Measured: weights were made from one half",
        f"{100 * found.step.macro:+.1f} points",
        "Next: train a fresh model with other weights,",
        "weights = reweight(influence)",
        "Evidence",
        "headroom",
        "held-out gain",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert max(map(len, str(found).splitlines())) <= WIDTH
    page = found._repr_html_()
    places = [
        page.index(part)
        for part in ("The model can still", "Accuracy today", "one small second-order step", "Evidence")
    ]
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
    assert rows[1][1:] == ["60.0", "10", "cat", "(3", "of", "4", "errors)"]
    assert rows[2][1:] == ["90.0", "10", "–"], "one mistake is not worth naming"
    assert rows[3][1:] == ["100.0", "10", "–"]
    assert found.step is None
    assert "one small second-order step" not in str(found)


def test_many_classes_show_the_lowest():
    lines = str(analysis(40)).splitlines()
    assert "… and 28 more" in lines


@pytest.mark.parametrize(
    ("answer", "said", "following"),
    [
        ("no", "No weights of the training samples help every class at once", "leave the weights alone"),
        ("not proven", "do not help every class at once beyond chance (p = 0.5)", "leave the weights alone"),
        ("underfitted", "The model is not trained to its end.", "train longer"),
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
    today, after = outcomes(each=300)
    for step in (None, today):
        text = " ".join(str(Analysis(influence(3), verdict, None, today, step)).split())
        assert said in text
        assert f"Next: {following}" in text
        assert ("It is not shown that the model can still improve on every class." in text) == (answer != "underfitted")
        assert ("points in the mean can be missed" in text) == (step is not None and answer != "underfitted")
    helped = " ".join(str(Analysis(influence(3), verdict, None, today, after)).split())
    assert said in helped
    assert ("The model can still improve on average. One small step" in helped) == (answer != "underfitted")
    assert ("Next: let the search make such steps" in helped) == (answer != "underfitted")


def test_labels_that_influence_and_model_speak_against_are_counted():
    scores, labels = np.array([[1.0, 1.0], [-3.0, -1.0], [-1.0, -2.0], [2.0, 1.0]]), [0, 1, 0, 1]
    matrix = InfluenceMatrix(scores, labels, ["cat", "dog"], predicted=[0, 0, 0, 0])
    text = str(Analysis(matrix, check_pareto(matrix), None))
    assert "Influence and model speak against 1 of 4 training labels. Look at them:" in text
    assert "suspected_samples(influence, 1, dataset=train_dataset)" in text
    unknown = replace(matrix, predicted=None)
    assert "speak against" not in str(Analysis(unknown, check_pareto(unknown), None))


def test_falls_and_rises_beyond_chance_are_named():
    before, after = outcomes(each=400)
    worse = replace(after, correct=after.correct & (after.category != 1))
    matrix = influence(3)
    found = Analysis(matrix, check_pareto(matrix), None, before, worse)
    assert found.step.lost().tolist() == [False, True, False]
    text = " ".join(str(found).split())
    assert "What rises beyond chance: class 0, class 2." in text
    assert "What falls beyond chance: the mean, class 1." in text
    assert "The model can still improve on every class, to first order." in text
    assert "But one small step was measured to do harm, see below." in text
    assert "measured to do harm" not in str(analysis())
    assert "▼ " in text
    assert "▲ " in text
    nothing = Analysis(matrix, check_pareto(matrix), None, before, before)
    assert "Nothing changes beyond chance" in " ".join(str(nothing).split())
    few = before.correct.copy()
    few[np.flatnonzero(before.correct & (before.category == 2))[:2]] = False
    text = " ".join(str(Analysis(matrix, check_pareto(matrix), None, before, replace(before, correct=few))).split())
    assert "The largest fall, of class 2 (-0.5 points, 2 of 400 samples), may be chance." in text


def test_categories_of_the_users_own_are_not_called_classes():
    matrix = influence(3)
    own = replace(matrix, metadata={**matrix.metadata, "categories": "own"})
    text = " ".join(str(Analysis(own, check_pareto(own), None)).split())
    assert "The model can still improve on every category, to first order." in text
    assert "and test it before you rely on it, weights = reweight(influence)" in text, "no step has confirmed it"
