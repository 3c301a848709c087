"""The copy of everything that training changes."""

import torch

from lightning_pareto.integration.correction.training_state import copied


def test_a_copy_shares_nothing():
    state = {"a": torch.ones(2), "b": [torch.zeros(1), {"c": torch.ones(1)}], "d": (1, "x")}
    twin = copied(state)
    state["a"].add_(1)
    state["b"][1]["c"].add_(1)
    assert twin["a"].tolist() == [1, 1]
    assert twin["b"][1]["c"].tolist() == [1]
    assert twin["d"] == (1, "x")
