"""What of a verdict reaches the loggers."""

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger

from lightning_pareto import InfluenceMatrix, ParetoCallback, check_pareto
from lightning_pareto.integration.output.log_verdict import FEW_CLASSES, MOST_CLASSES, figures_of, table_of
from tests.integration._models import Data, Plain, trainer


class Unreachable(CSVLogger):
    """A service that is down when the verdict is logged. It notes what is on disk by then."""

    def log_metrics(self, metrics, step=None):
        if any(name.startswith("pareto/") for name in metrics):
            self.saved = InfluenceMatrix.load(f"{self.log_dir}/pareto/influence.safetensors")
            raise ConnectionError("service is away")
        super().log_metrics(metrics, step)


def test_failing_logger_loses_nothing(tmp_path, capsys):
    loggers = [Unreachable(tmp_path, name="away"), CSVLogger(tmp_path, name="there")]
    callback = ParetoCallback()
    fitted = trainer(tmp_path, callback, logger=loggers, log_every_n_steps=1)
    with pytest.warns(UserWarning, match="Unreachable did not accept the verdict's numbers: service is away"):
        fitted.fit(Plain(), datamodule=Data())
    assert str(callback.analysis) in capsys.readouterr().out
    np.testing.assert_array_equal(loggers[0].saved.scores, callback.influence.scores)
    assert fitted.callback_metrics["pareto/headroom"] == pytest.approx(callback.verdict.headroom)
    assert "pareto/headroom" in (tmp_path / "there" / "version_0" / "metrics.csv").read_text()


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (FEW_CLASSES, ["headroom", "exchange_rates"]),
        (FEW_CLASSES + 1, ["headroom"]),
        (MOST_CLASSES + 1, []),
    ],
)
def test_only_readable_figures_are_drawn(classes, names):
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(2 * classes, classes)).astype(np.float32)
    influence = InfluenceMatrix(scores, np.arange(2 * classes) % classes)
    verdict = check_pareto(influence)
    assert list(figures_of(verdict)) == [f"pareto/{name}" for name in names]
    columns, rows = table_of(verdict)
    assert len(rows) == classes
    assert all(len(row) == len(columns) for row in rows)
    assert rows[0][columns.index("held-out gain")] is None, "without folds nothing is held out"
