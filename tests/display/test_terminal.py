"""Names of classes come from data of others: whatever they are, they do nothing to a terminal."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

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
from lightning_pareto.display.terminal import printable
from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.integration.tuner.judge import Tried, choose
from lightning_pareto.integration.tuner.messages import TrialLog
from lightning_pareto.integration.tuner.search import Finalist
from lightning_pareto.integration.tuner.trial_result import TrialResult
from tests._oracles import loader
from tests.integration._models import Data, Named, Plain, datasets, trainer

EVIL = ("\x1b[2Jcat", "dog\r\n\x9b31m", "\u202ecow\x07")
OBEYED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def influence(absent=False):
    rng = np.random.default_rng(0)
    folds = rng.normal(size=(8, 60, 3)) + rng.normal(size=(60, 3))
    folds[..., 2] = np.nan if absent else folds[..., 2]
    support = np.full((8, 3), 10) * ([1, 1, 0] if absent else [1, 1, 1])
    options = {"support": support.sum(axis=0), "fold_scores": folds, "fold_support": support}
    return InfluenceMatrix(folds.mean(axis=0), np.arange(60) % 3, EVIL, predicted=np.arange(60) % 3, **options)


def outcome(right):
    return Outcome(np.arange(90) % 3, np.arange(90) < right, np.full(90, 0.5), EVIL)


def trial(right):
    return TrialResult("fit", outcome(right), 1, 1, np.zeros(1), Path("best.ckpt"))


def searched(before, after):
    unseen = np.ones(90, bool)
    tried = Tried(Finalist("weights", ((SampleWeights(np.ones(4)), unseen),)), (trial(after),))
    return choose(trial(before), trial(before), [tried], [trial(before)], 0.05, improvable=False)[0]


def comparison():
    return ClasswiseComparison({EVIL[0]: [[0.9] * 3] * 3, EVIL[1]: [[0.5] * 3] * 3}, EVIL, EVIL[0])


def correction(accepted):
    accuracy = (0.9, 0.8, 0.7)
    return Correction(4, EVIL[:2], EVIL, accuracy, accuracy[::-1], accuracy, accepted)


TEXTS = {
    "verdict": lambda: check_pareto(influence()),
    "verdict with targets": lambda: check_pareto(influence(), targets=[0], floors=-0.5),
    "verdict with a gap": lambda: check_pareto(influence(absent=True)),
    "weights": lambda: reweight(influence()),
    "influence": influence,
    "result that is accepted": lambda: searched(20, 80),
    "result that is not": lambda: searched(80, 20),
    "suspects": lambda: suspected_samples(influence(), 5),
    "trade-offs": lambda: trade_off_samples(influence(), *EVIL[:2]),
    "comparison": comparison,
    "correction that is kept": lambda: correction(True),
    "correction that is not": lambda: correction(False),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_texts(kind):
    shown = TEXTS[kind]()
    for text in (str(shown), repr(shown) if not hasattr(shown, "accuracy") else ""):
        assert not OBEYED.search(text), repr(text)
        assert not re.search("^.{0,3}31m", text, re.MULTILINE), "a name has no line of its own"


def test_a_searchs_log(capsys):
    log = TrialLog(True, 10)
    log.tell("fit", trial(1).outcome, 1)
    said = capsys.readouterr().out
    assert "(?" in said or "dog" in said
    assert not OBEYED.search(said)
    assert said.count("\n") == 1


def test_warnings(tmp_path, recwarn):
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
def test_errors(call):
    with pytest.raises((ValueError, InfeasibleError)) as caught:
        call()
    assert not OBEYED.search(str(caught.value))


def test_harmless():
    assert printable("plain äöü 日本") == "plain äöü 日本"
    assert printable("\x1b]0;title\x07") == "?]0;title?"
    assert printable("x" * 30, 10) == "x" * 9 + "…"


def test_a_result_is_the_same_kind():
    assert isinstance(searched(20, 80), ParetoResult)
    assert searched(20, 80).accepted
