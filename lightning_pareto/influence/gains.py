"""First-order gains of sample weights, and the unit that makes gains comparable between categories."""

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]


def predicted_gain(scores: npt.NDArray[np.floating], weights: Float, present: Float | float = 1.0) -> Float:
    """First-order drop of each category's validation measure, ``mean_i (w_i − u_i) P_ik``, (K,); positive is better.

    u are the present weights, those that the model was fitted with.
    """
    return np.asarray((weights - present) @ scores.astype(np.float64) / len(scores))


def column_scale(scores: npt.NDArray[np.floating]) -> Float:
    """Mean absolute influence s_k on each category, (K,): the unit of relative gains.

    A column of zeros has the scale 1, so that its relative gain is 0 rather than undefined. A column of NaN has NaN.
    """
    scale = np.abs(scores).mean(axis=0, dtype=np.float64)
    return np.where(scale == 0, 1.0, scale)
