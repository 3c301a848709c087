"""Text for a terminal: aligned, cut, and harmless whatever the names of classes in a data set are."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from tqdm.utils import disp_len

from lightning_pareto import (
    ClasswiseComparison,
    Correction,
    InfeasibleError,
    InfluenceMatrix,
    ParetoCallback,
    ParetoResult,
    SampleWeights,
    check_pareto,
    estimate_influence,
    reweight,
    suspected_samples,
    trade_off_samples,
)
from lightning_pareto.display.terminal import (
    WIDTH,
    duration,
    gibibytes,
    listed,
    printable,
    printable_line,
    rounded,
    significant,
    text_table,
    wrapped,
)
from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.evaluation.result import Attempt
from lightning_pareto.integration.tuner.judge import Judge, Tried
from lightning_pareto.integration.tuner.messages import TrialLog
from lightning_pareto.integration.tuner.search import Finalist
from lightning_pareto.integration.tuner.trial_result import TrialResult
from tests._oracles import loader
from tests.integration._models import Data, Named, Plain, datasets, trainer

EVIL = ("\x1b[2Jcat", "dog\r\n\x9b31m", "\u202ecow\x07")
OBEYED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.0123, "0.012"), (3.04, "3"), (412.0, "410"), (1234567.0, "1200000"), (3.4e-5, "0.000034")],
)
def test_numbers_are_rounded_and_have_no_exponent(value, text):
    assert significant(value) == text


def test_sizes_and_durations_have_no_exponents():
    assert [gibibytes(1.5e3), duration(9e5), duration(4e4), rounded(1_500 * 10**9)] == [
        "1500 GiB",
        "250 h",
        "11 h",
        "1500 billion",
    ]


def influence(absent=False):
    rng = np.random.default_rng(0)
    folds = rng.normal(size=(8, 60, 3)) + rng.normal(size=(60, 3))
    folds[..., 2] = np.nan if absent else folds[..., 2]
    support = np.full((8, 3), 10) * ([1, 1, 0] if absent else [1, 1, 1])
    options = {"support": support.sum(axis=0), "fold_scores": folds, "fold_support": support}
    return InfluenceMatrix(folds.mean(axis=0), np.arange(60) % 3, EVIL, predicted=np.arange(60) % 3, **options)


def trial(hits):
    """A fit that is right on the first ``hits`` of 90 samples."""
    outcome = Outcome(np.arange(90) % 3, np.arange(90) < hits, np.full(90, 0.5), EVIL)
    return TrialResult("fit", outcome, 1, 1, np.zeros(1), Path("best.ckpt"))


def searched(before, after):
    tried = Tried(Finalist("weights", ((SampleWeights(np.ones(4)), np.ones(90, bool)),)), (trial(after),))
    judge = Judge(level=0.05, improvable=False)
    return judge.choose(trial(before), trial(before), [tried], trials=[trial(before)])[0]


def comparison():
    return ClasswiseComparison({EVIL[0]: [[0.9] * 3] * 3, EVIL[1]: [[0.5] * 3] * 3}, EVIL, EVIL[0])


def correction(accepted):
    accuracy = (0.9, 0.8, 0.7)
    return Correction(4, EVIL[:2], EVIL, accuracy, accuracy[::-1], accuracy, accepted)


TEXTS = {
    "verdict": lambda: check_pareto(influence()),
    "verdict with targets": lambda: check_pareto(influence(), targets=[0], floors=-0.5),
    "verdict with an absent category": lambda: check_pareto(influence(absent=True)),
    "weights": lambda: reweight(influence()),
    "influence": influence,
    "accepted result": lambda: searched(20, 80),
    "refused result": lambda: searched(80, 20),
    "suspects": lambda: suspected_samples(influence(), 5),
    "trade-offs": lambda: trade_off_samples(influence(), *EVIL[:2]),
    "comparison": comparison,
    "correction that is kept": lambda: correction(True),
    "correction that is not": lambda: correction(False),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_text_of_a_result_commands_no_terminal(kind):
    shown = TEXTS[kind]()
    for text in (str(shown), repr(shown) if not hasattr(shown, "accuracy") else ""):
        assert not OBEYED.search(text), repr(text)
        assert not re.search("^.{0,3}31m", text, re.MULTILINE), "a name has no line of its own"


def test_log_of_a_search_commands_no_terminal(capsys):
    log = TrialLog(True, 10)
    log.report("fit", trial(1).outcome, 1)
    printed = capsys.readouterr().out
    assert "(?" in printed or "dog" in printed
    assert not OBEYED.search(printed)
    assert printed.count("\n") == 1


def test_warnings_command_no_terminal(tmp_path, recwarn):
    warnings.simplefilter("always")
    data = loader(torch.randn(20, 3), torch.zeros(20).long())
    estimate_influence(nn.Linear(3, 3), data, data, category_names=EVIL)
    train, val = (Named(x, y % 2) for x, y in (part.tensors for part in datasets()))
    trainer(tmp_path, ParetoCallback(class_names=[*EVIL, "d"], verbose=False), max_epochs=1).fit(
        Plain(), datamodule=Data(train, val)
    )
    ours = [str(each.message) for each in recwarn if "samples of" in str(each.message)]
    assert len(ours) == 5, "of training, of validation, and during the fit"
    assert not any(OBEYED.search(text) or "\n" in text for text in ours)


@pytest.mark.parametrize(
    "call",
    [
        lambda: check_pareto(influence(absent=True), targets=[2]),
        lambda: check_pareto(influence(), targets=[0], floors=[0, np.nan, 0]),
        lambda: check_pareto(influence(), targets=[0], floors=[0, 5, 0]),
        lambda: check_pareto(influence(), targets="?"),
        lambda: reweight(influence(), thresholds=[0, 5, 0]),
        lambda: trade_off_samples(influence(), "?", EVIL[0]),
        lambda: InfluenceMatrix([[1.0], [2.0]], [0, 0], EVIL[:1], None, [[[1.0], [np.nan]]], [[3]]),
    ],
)
def test_errors_command_no_terminal(call):
    with pytest.raises((ValueError, InfeasibleError)) as caught:
        call()
    assert not OBEYED.search(str(caught.value))


def test_printable_names():
    assert printable("plain äöü 日本") == "plain äöü 日本"
    assert printable("\x1b]0;title\x07") == "?]0;title?"
    assert printable("x" * 30, 10) == "x" * 9 + "…"
    assert printable("x" * 25) == "x" * 23 + "…"
    assert printable("x" * 24) == "x" * 24
    assert printable("e\u0301") == "é", "one letter, one column"


def test_printable_lines_keep_their_length():
    assert printable_line("a\tb\nc" + "x" * 300) == "a?b?c" + "x" * 300


def test_wide_letters_take_two_columns():
    assert disp_len(printable("猫" * 50)) <= 24
    assert printable("猫" * 50).endswith("猫…")
    assert printable("猫" * 12) == "猫" * 12


def test_table_aligns_names_left_and_numbers_right():
    table = text_table({"category": ["cat", "a longer name"], "gain": ["+0.5", "-12.25"], "n": ["7", "–"]})
    assert table == [
        "category         gain  n",
        "cat              +0.5  7",
        "a longer name  -12.25  –",
    ]


def test_table_aligns_wide_letters_and_accents():
    table = text_table({"": ["猫", "犬cat", printable("e\u0301t")], "価格": ["1", "12345", "∞"]})
    assert [disp_len(line) for line in table] == [disp_len("犬cat") + 2 + 5] * 4
    assert table == ["        価格", "猫         1", "犬cat  12345", "ét         ∞"]


def test_columns_of_text_are_aligned_to_the_left():
    table = text_table({"n": ["7", "8"], "text": ["a", "bcdefg"], "gain": ["+1", "-12"]}, left=["text"])
    assert table == ["n  text    gain", "7  a         +1", "8  bcdefg   -12"]


def test_table_has_no_trailing_blanks_and_takes_no_rows():
    assert text_table({"name": ["a", "bcd"], "note": ["here", ""]}) == ["name  note", "a     here", "bcd"]
    assert text_table({"name": [], "gain": []}) == ["name  gain"]


def test_text_is_wrapped_at_the_width_without_breaking_words():
    path = "/a-very/long-path/" + "x" * WIDTH
    lines = wrapped("one two " * 30 + path)
    assert max(map(len, lines[:-1])) <= WIDTH
    assert lines[-1] == path


def test_long_lists_are_cut():
    assert listed("abc") == "a, b, c"
    assert listed("abcdefgh") == "a, b, c, d, e, f and 2 more"
    assert listed("abcd", most=2) == "a, b and 2 more"
    assert listed(["\x1b[31m"]) == "?[31m"
    assert listed(["", "a"]) == "'', a"


LONG_NAMES = tuple(f"a class with a rather long name, {k} of a dozen" for k in range(12))


def test_results_with_long_names_fit_eighty_columns():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3000, 12)).astype(np.float32) * 1e-7
    matrix = InfluenceMatrix(scores, rng.integers(0, 12, 3000), category_names=LONG_NAMES)
    values = rng.random((3, 12))
    result = ParetoResult(
        category_names=LONG_NAMES,
        before=values[0],
        after=values[1],
        support=np.full(12, 100_000),
        p_values=values[2] * 1e-12,
        refused=values[0],
        gain=-0.012,
        gain_error=0.005,
        accepted=False,
        reason="not better beyond chance: " + "; ".join(LONG_NAMES),
        weights=None,
        ckpt_path="/runs/best.ckpt",
        best_epoch=10,
        epochs_spent=1234,
        trials=(),
        ordinary=values[0],
        attempts=(Attempt(LONG_NAMES[0], *values, values[0] > 0.5, -0.5, 0.1, -1.0, True),),
    )
    for text in (str(trade_off_samples(matrix, *LONG_NAMES[:2])), repr(reweight(matrix)), str(result)):
        assert max(map(len, text.splitlines())) <= WIDTH, text


def test_result_of_these_tests_is_a_real_one():
    assert isinstance(searched(20, 80), ParetoResult)
    assert searched(20, 80).accepted
