"""The copy of everything that training changes."""

import torch
from torch import nn

from lightning_pareto.integration.correction.training_state import ModuleState, copied


def test_a_copy_shares_nothing():
    state = {"a": torch.ones(2), "b": [torch.zeros(1), {"c": torch.ones(1)}], "d": (1, "x")}
    twin = copied(state)
    state["a"].add_(1)
    state["b"][1]["c"].add_(1)
    assert twin["a"].tolist() == [1, 1]
    assert twin["b"][1]["c"].tolist() == [1]
    assert twin["d"] == (1, "x")


class Slim(nn.Linear):
    """Leaves its frozen bias out of its state, as adapters do with what they do not train."""

    def state_dict(self, *args, **kwargs):
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if "bias" not in name}


def test_module_may_leave_frozen_parameters_out_of_its_state():
    module = Slim(2, 2)
    bias, state, before = module.bias.detach().clone(), ModuleState(module), module.weight.detach().clone()
    module.weight.data.add_(1)
    state.restore(module)
    assert torch.equal(module.weight, before)
    assert torch.equal(module.bias, bias)
