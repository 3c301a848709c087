"""Linear programs solved by HiGHS. No other module imports the solver."""

from dataclasses import dataclass

import highspy
import numpy as np

INFINITY = highspy.kHighsInf


class LinearProgramError(RuntimeError):
    """The solver stopped without an optimal solution."""


class InfeasibleError(LinearProgramError):
    """No point satisfies all constraints."""


class _QuietHighs(highspy.Highs):
    """HiGHS without its banner, which the constructor prints as soon as it enables callbacks."""

    def enableCallbacks(self) -> None:  # noqa: N802 (HiGHS's name)
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class LinearProgramSolution:
    """An optimal point and the dual values that certify it.

    Attributes:
        x: optimal point, (n,).
        row_duals: change of the optimal value per unit increase of each row's active bound, (m,). When maximising, a
            binding lower bound has a dual ≤ 0 and a binding upper bound a dual ≥ 0.
        reduced_costs: the same for the column bounds, (n,).
    """

    x: np.ndarray
    objective: float
    row_duals: np.ndarray
    reduced_costs: np.ndarray


class LinearProgram:
    """Maximise ``objective @ x`` subject to ``row_lower ≤ rows @ x ≤ row_upper`` and ``lower ≤ x ≤ upper``.

    The solver keeps the model between solves. If you only change the row bounds with :meth:`set_row_bounds`, the next
    solve restarts from the last basis. That is much faster than building a new model.

    ``rows`` is a dense matrix with few rows and many columns, (m, n). A row without a bound has ``-INFINITY`` or
    ``INFINITY``.

    Raises:
        LinearProgramError: if an array is not finite or HiGHS rejects the model.
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
            raise LinearProgramError("the objective and rows of a linear program must be finite, found NaN or infinity")
        m, n = rows.shape
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = n, m
        model.sense_ = highspy.ObjSense.kMaximize
        model.col_cost_, model.row_lower_, model.row_upper_, model.col_lower_, model.col_upper_ = (
            np.asarray(values, dtype=np.float64) for values in (objective, row_lower, row_upper, lower, upper)
        )
        model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        model.a_matrix_.start_ = np.arange(0, m * n + 1, m, dtype=np.int32)
        model.a_matrix_.index_ = np.tile(np.arange(m, dtype=np.int32), n)
        model.a_matrix_.value_ = np.asarray(rows, dtype=np.float64).ravel(order="F")
        self._highs = _QuietHighs()
        self._check(self._highs.passModel(model))

    def set_row_bounds(self, row_lower: np.ndarray, row_upper: np.ndarray) -> None:
        """Replace the bounds of every row. The next solve is warm-started."""
        for row, (lower, upper) in enumerate(zip(row_lower, row_upper, strict=True)):
            self._check(self._highs.changeRowBounds(row, float(lower), float(upper)))

    def start_from(self, basic: np.ndarray, at_upper: np.ndarray, binding: np.ndarray) -> None:
        """Start the next solve from a basis that is nearly optimal.

        Args:
            basic: columns between their bounds, (n,) bool, as many as there are binding rows.
            at_upper: which of the others are at their upper bound, (n,) bool.
            binding: −1 for rows at their lower bound, 1 for those at the upper, 0 for the others, (m,).
        """
        status = highspy.HighsBasisStatus
        kinds = np.array([status.kLower, status.kUpper, status.kBasic], dtype=object)
        basis = highspy.HighsBasis()
        basis.col_status = kinds[np.where(basic, 2, at_upper.astype(int))].tolist()
        basis.row_status = kinds[np.where(binding == 0, 2, (binding > 0).astype(int))].tolist()
        basis.valid = True
        self._check(self._highs.setBasis(basis))

    def solve(self) -> LinearProgramSolution:
        """Solve to optimality.

        Raises:
            InfeasibleError: if no point satisfies the constraints.
            LinearProgramError: if the solver stops for any other reason. It never returns NaN.
        """
        self._highs.run()
        status = self._highs.getModelStatus()
        if status == highspy.HighsModelStatus.kInfeasible:
            raise InfeasibleError("the linear program has no feasible point")
        if status != highspy.HighsModelStatus.kOptimal:
            raise LinearProgramError(f"HiGHS stopped without an optimum: {self._highs.modelStatusToString(status)}")
        solution = self._highs.getSolution()
        return LinearProgramSolution(
            x=np.array(solution.col_value),
            objective=float(self._highs.getObjectiveValue()),
            row_duals=np.array(solution.row_dual),
            reduced_costs=np.array(solution.col_dual),
        )

    @staticmethod
    def _check(status: highspy.HighsStatus) -> None:
        if status == highspy.HighsStatus.kError:
            raise LinearProgramError("HiGHS rejected the model: its arrays must be finite and have matching shapes")
