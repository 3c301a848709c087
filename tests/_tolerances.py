"""Allowed errors against the oracles, by dtype and relative to the largest value."""

import torch

RELATIVE = {torch.float32: 1e-5, torch.float64: 1e-10}

# A GPU adds in another order, and EK-FAC's eigenvectors and conjugate gradients amplify the difference.
GPU = {torch.float32: 1e-3, torch.float64: 1e-7}

# Two processes add float32 sums in another order, which changes EK-FAC's eigenvectors.
TWO_PROCESSES = 1e-4

# The solver certifies its answers to a feasibility tolerance of 1e-7, for coefficients of order one.
LINEAR_PROGRAM = 1e-6
