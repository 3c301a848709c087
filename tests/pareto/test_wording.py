"""The verdict as text: within 80 columns, readable, and safe to print on a terminal."""

import numpy as np
import pytest
from tqdm.utils import disp_len

from lightning_pareto import InfluenceMatrix, check_pareto
from lightning_pareto.display.terminal import WIDTH


def verdict_of(names, signal=0.5, size=20, folds=8, **options):
    rng = np.random.default_rng(0)
    n, k = 400, len(names)
    common = np.where(rng.random(n) < 0.2, -signal, 0)[:, None] + rng.normal(size=(n, k)) / 4
    scores = common + rng.normal(size=(folds, n, k))
    support = np.full((folds, k), size)
    influence = InfluenceMatrix(
        scores.mean(axis=0), rng.integers(0, k, n), names, fold_scores=scores, fold_support=support
    )
    return check_pareto(influence, **options)


@pytest.mark.parametrize("count", [2, 12, 13, 100])
@pytest.mark.parametrize("options", [{}, {"targets": [0, 1], "floors": 0.0}], ids=["all", "targets"])
@pytest.mark.parametrize("length", [1, 300])
def test_fits_the_terminal_with_any_number_of_categories(count, options, length):
    text = str(verdict_of([f"{k}{'x' * length}" for k in range(count)], **options))
    assert max(map(disp_len, text.splitlines())) <= WIDTH
    assert len(text.splitlines()) <= 40
    assert ("… and 1 more, whose gain is more certain" in text) == (count == 13)
    assert ("… and 88 more" in text) == (count == 100)


def test_only_the_worst_of_many_categories_are_shown():
    verdict = verdict_of([f"c{k:02d}" for k in range(30)])
    rows = str(verdict).split("alone  price\n")[1].split("… and 18 more")[0].splitlines()
    worst = np.argsort(verdict.lower_bound)[:12]
    assert [row.split()[0] for row in rows] == [f"c{k:02d}" for k in worst]


@pytest.mark.parametrize("present", [3, 20])
def test_categories_without_samples_do_not_crowd_out_the_others(present):
    """A model may have a thousand outputs, and the dataset only ten classes."""
    scores = np.random.default_rng(0).normal(size=(400, 30))
    scores[:, present:] = np.nan
    verdict = check_pareto(InfluenceMatrix(scores, np.arange(400) % 30, [f"c{k:02d}" for k in range(30)]))
    rows = str(verdict).split("alone  price\n")[1].split("\n\n")[0].splitlines()
    names = [row.split()[0] for row in rows if not row.startswith("…")]
    assert len(names) == min(present, 12)
    assert set(names) <= {f"c{k:02d}" for k in range(present)}
    more = ["… and 8 more, whose gain is more certain"] if present == 20 else []
    assert rows[len(names) :] == [*more, f"… and {30 - present} without validation samples"]


EVIL = ["\x1b[2J\x1b[31mcat", "dog\r\nPareto improvement possible: YES", "\u202egod", "\x9b5mcow", "a\x00b\x07"]


@pytest.mark.parametrize("signal", [0.0, 2.0])
@pytest.mark.parametrize("options", [{}, {"targets": EVIL[1]}], ids=["all", "targets"])
def test_names_cannot_control_the_terminal(signal, options):
    text = str(verdict_of(EVIL, signal, **options))
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert not any(line.startswith("Pareto improvement") for line in text.splitlines()[1:])
    assert "?[2J?[31mcat" in text


def test_wide_letters_take_two_columns():
    rows = [line for line in str(verdict_of(["猫", "犬cat"])).splitlines() if line.startswith(("猫", "犬"))]
    assert len(set(map(disp_len, rows))) == 1
