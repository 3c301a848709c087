"""Assertions about numerical results."""

import numpy as np
import torch

from tests._tolerances import LINEAR_PROGRAM


def assert_near(found, expected, tolerance):
    """Assert that the largest difference is within a tolerance, relative to the largest expected value."""
    found, expected = (torch.as_tensor(x, dtype=torch.float64) for x in (found, expected))
    assert found.shape == expected.shape
    error = float((found - expected).abs().max() / expected.abs().max())
    assert error <= tolerance, f"relative error {error:.2e} > {tolerance:.0e}"


def assert_optimal(solution, objective, rows, row_lower, row_upper, lower, upper):
    """Assert the KKT conditions of: maximise objective @ x, row_lower ≤ rows @ x ≤ row_upper, lower ≤ x ≤ upper."""
    x, y, z = solution.x, solution.row_duals, solution.reduced_costs
    scale = LINEAR_PROGRAM * (1 + np.abs(rows) @ np.abs(x))
    activity = rows @ x
    assert (activity >= row_lower - scale).all(), "primal feasibility of the rows"
    assert (activity <= row_upper + scale).all(), "primal feasibility of the rows"
    assert (x >= lower - LINEAR_PROGRAM).all(), "primal feasibility of the columns"
    assert (x <= upper + LINEAR_PROGRAM).all(), "primal feasibility of the columns"
    np.testing.assert_allclose(rows.T @ y + z, objective, atol=1e-6, err_msg="stationarity")
    for dual, value, low, high in ((y, activity, row_lower, row_upper), (z, x, lower, upper)):
        positive, negative = dual > LINEAR_PROGRAM, dual < -LINEAR_PROGRAM
        np.testing.assert_allclose(value[positive], high[positive], atol=1e-5, err_msg="complementary slackness")
        np.testing.assert_allclose(value[negative], low[negative], atol=1e-5, err_msg="complementary slackness")
