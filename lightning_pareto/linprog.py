"""Linear programs through HiGHS: the only module that knows the solver."""

from dataclasses import dataclass

import highspy
import numpy as np

INFINITY = highspy.kHighsInf


class LinearProgramError(RuntimeError):
    """The solver ended without an optimal solution."""


class InfeasibleError(LinearProgramError):
    """No point satisfies all the constraints."""


class _QuietHighs(highspy.Highs):
    """HiGHS prints its banner while the constructor enables callbacks: silence it before that."""

    def enableCallbacks(self) -> None:  # noqa: N802 (the solver's name)
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class LinearProgramSolution:
    """An optimal point with its certificate.

    Attributes:
        x: the optimal point, (n,).
        objective: its value.
        row_duals: change of the optimal value for a unit rise of each row's active bound, (m,). In a maximisation a
            binding lower bound has a dual ≤ 0 and a binding upper bound one ≥ 0.
        reduced_costs: the same for the bounds of the columns, (n,).
    """

    x: np.ndarray
    objective: float
    row_duals: np.ndarray
    reduced_costs: np.ndarray


class LinearProgram:
    """Maximise ``objective @ x`` subject to ``row_lower ≤ rows @ x ≤ row_upper`` and ``lower ≤ x ≤ upper``.

    The model stays alive in the solver: changing only :meth:`set_row_bounds` between two solves restarts from the last
    basis, which is faster by far than a new model.

    Args:
        objective: (n,).
        rows: dense constraint matrix, (m, n), few rows and many columns.
        row_lower: (m,), ``-INFINITY`` where there is none.
        row_upper: (m,), ``INFINITY`` where there is none.
        lower: (n,).
        upper: (n,).

    Raises:
        LinearProgramError: if the objective or a row is not finite.
    """

    def __init__(
        self,
        objective: np.ndarray,
        rows: np.ndarray,
        row_lower: np.ndarray,
        row_upper: np.ndarray,
        lower: np.ndarray,
        upper: np.ndarray,
    ) -> None:
        if not (np.isfinite(objective).all() and np.isfinite(rows).all()):
            raise LinearProgramError("the objective and the rows of a linear program must be finite")
        m, n = rows.shape
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = n, m
        model.sense_ = highspy.ObjSense.kMaximize
        model.col_cost_ = np.asarray(objective, dtype=np.float64)
        model.col_lower_ = np.asarray(lower, dtype=np.float64)
        model.col_upper_ = np.asarray(upper, dtype=np.float64)
        model.row_lower_ = np.asarray(row_lower, dtype=np.float64)
        model.row_upper_ = np.asarray(row_upper, dtype=np.float64)
        model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        model.a_matrix_.start_ = np.arange(0, m * n + 1, m, dtype=np.int32)
        model.a_matrix_.index_ = np.tile(np.arange(m, dtype=np.int32), n)
        model.a_matrix_.value_ = np.asarray(rows, dtype=np.float64).ravel(order="F")
        self._highs = _QuietHighs()
        self._accept(self._highs.passModel(model))

    def set_row_bounds(self, row_lower: np.ndarray, row_upper: np.ndarray) -> None:
        """Replace the bounds of every row; the next solve is a warm start."""
        for row, (least, largest) in enumerate(zip(row_lower, row_upper, strict=True)):
            self._accept(self._highs.changeRowBounds(row, float(least), float(largest)))

    def solve(self) -> LinearProgramSolution:
        """Solve to optimality.

        Raises:
            InfeasibleError: if no point satisfies the constraints.
            LinearProgramError: if the solver stops for any other reason; there is never a NaN answer.
        """
        self._highs.run()
        status = self._highs.getModelStatus()
        if status == highspy.HighsModelStatus.kInfeasible:
            raise InfeasibleError("the linear program has no feasible point")
        if status != highspy.HighsModelStatus.kOptimal:
            raise LinearProgramError(f"HiGHS stopped with: {self._highs.modelStatusToString(status)}")
        solution = self._highs.getSolution()
        return LinearProgramSolution(
            x=np.array(solution.col_value),
            objective=float(self._highs.getObjectiveValue()),
            row_duals=np.array(solution.row_dual),
            reduced_costs=np.array(solution.col_dual),
        )

    @staticmethod
    def _accept(status: highspy.HighsStatus) -> None:
        if status == highspy.HighsStatus.kError:
            raise LinearProgramError("HiGHS refused the model: its arrays must be finite and their shapes agree")
