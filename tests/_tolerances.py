"""How near to an oracle a number must come, by dtype: relative error against the largest value."""

import torch

RELATIVE = {torch.float32: 1e-5, torch.float64: 1e-10}

# Two processes add the same float32 sums in another order, and EK-FAC's eigenvectors feel it.
TWO_PROCESSES = 1e-4

# LP answers are certified to the solver's own feasibility tolerances (1e-7), for coefficients of order one.
LINEAR_PROGRAM = 1e-6
