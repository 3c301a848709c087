"""Which parameters ``layers=`` covers, and patterns that leave some out."""

import pytest
from torch import nn

from lightning_pareto.influence.layers import patterns_without, select_layers


class Tied(nn.Module):
    """An embedding whose table is also the weight of the head."""

    def __init__(self):
        super().__init__()
        self.embedding, self.mix, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9)
        self.head.weight = self.embedding.weight


def covered(module, patterns):
    return [name for layer in select_layers(module, patterns) for name in layer.names]


NETWORK = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (None, ["0.weight", "0.bias", "2.weight", "2.bias"]),
        (["2.*"], ["2.weight", "2.bias"]),
        (["!2.*"], ["0.weight", "0.bias"]),
        (["!0.weight"], ["0.bias", "2.weight", "2.bias"]),
        (["*", "!0.weight"], ["0.bias", "2.weight", "2.bias"]),
        (["!0.weight", "0.*"], ["0.bias"]),
        (["!0.weight", "!*.bias"], ["2.weight"]),
    ],
    ids=str,
)
def test_patterns_choose_parameters_or_leave_them_out(patterns, names):
    assert covered(NETWORK, patterns) == names


def test_frozen_parameters_stay_out():
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    module[0].requires_grad_(False)
    assert covered(module, ["!1.bias"]) == ["1.weight"]


@pytest.mark.parametrize("name", ["embedding.weight", "head.weight"])
def test_shared_parameter_is_left_out_under_each_of_its_names(name):
    assert covered(Tied(), [f"!{name}"]) == ["mix.weight", "mix.bias", "head.bias"]


@pytest.mark.parametrize(
    ("patterns", "text"),
    [
        (["!embeding.weight"], r"no trainable parameter matches \['!embeding.weight'\]"),
        (["*", "!"], r"no trainable parameter matches \['!'\]"),
        (["!*"], r"layers=\['!\*'\] covers no trainable parameter"),
        (["2.*", "!2.*"], "covers no trainable parameter"),
    ],
    ids=str,
)
def test_patterns_without_effect_and_those_that_leave_nothing_are_refused(patterns, text):
    with pytest.raises(ValueError, match=text):
        select_layers(NETWORK, patterns)


LSTM = [f"rnn.{kind}_l{i}" for i in range(4) for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


@pytest.mark.parametrize(
    ("names", "kept", "patterns"),
    [
        (LSTM, ["embedding.weight", "head.weight"], ["!rnn.*"]),
        (LSTM[:4], LSTM[4:], [f"!{name}" for name in LSTM[:4]]),
        ([f"blocks.{i}.gate" for i in range(24)], [f"blocks.{i}.linear.weight" for i in range(24)], ["!blocks.*.gate"]),
        (["0.weight", "0.bias"], ["1.weight"], ["!0.*"]),
        (["0.weight"], ["0.bias"], ["!*.weight"]),
        (["scale"], ["0.weight"], ["!scale"]),
        (["a.b.c", "a.b.d", "a.e"], ["a.f"], ["!a.b.*", "!a.e"]),
    ],
)
def test_few_patterns_leave_out_these_parameters_and_no_other(names, kept, patterns):
    assert patterns_without(names, kept) == patterns
