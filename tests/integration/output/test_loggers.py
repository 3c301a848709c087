"""What users find in their loggers after a fit, tested with the real loggers."""

import csv
import importlib.util
import json
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger

from lightning_pareto import ParetoCallback
from lightning_pareto.integration.output.loggers import Exhibits, show_with
from tests.integration._models import Data, Plain, trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*(filesystem tracking|file store):FutureWarning")

PNG = b"\x89PNG\r\n"


def need(package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}, which the dev extra installs")


def fit(tmp_path, *loggers, **options):
    callback = ParetoCallback(verbose=False, **options)
    fitted = trainer(tmp_path, callback, logger=list(loggers), log_every_n_steps=1)
    fitted.fit(Plain(), datamodule=Data())
    return callback, fitted


def gains(verdict):
    return {name: float(gain) for name, gain in zip(verdict.category_names, verdict.held_out_gain, strict=True)}


def read_table(text):
    return {row["class"]: float(row["held-out gain"]) for row in csv.DictReader(text.splitlines())}


def test_numbers_of_samples_have_no_exponent_in_tensorboard():
    texts = []
    logger = TensorBoardLogger("unused")
    logger._experiment = SimpleNamespace(add_text=lambda name, text, step: texts.append(text))
    rows = [["cat", 0.123456, 12345.0]]
    exhibits = Exhibits(figures={}, headings=["class", "gain", "samples"], rows=rows, report=None, step=0)
    show_with(logger)(logger, exhibits)
    assert texts[0].splitlines()[2] == "| cat | 0.1235 | 12345 |"


def test_csv_logger_gets_files_next_to_its_metrics(tmp_path):
    callback, fitted = fit(tmp_path, CSVLogger(tmp_path, name="csv"))
    folder = tmp_path / "csv" / "version_0" / "pareto"
    assert (folder.parent / "metrics.csv").exists()
    for name in ("headroom.png", "exchange_rates.png"):
        assert (folder / name).read_bytes().startswith(PNG)
    assert read_table((folder / "classes.csv").read_text()) == pytest.approx(gains(callback.verdict))
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    assert float(fitted.callback_metrics["pareto/headroom"]) == pytest.approx(callback.verdict.headroom)


def test_tensorboard_shows_figures_and_a_table(tmp_path):
    need("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    callback, fitted = fit(tmp_path, TensorBoardLogger(tmp_path, name="board", version="a"))
    events = EventAccumulator(str(tmp_path / "board" / "a")).Reload()
    for name in ("pareto/headroom", "pareto/exchange_rates"):
        (image,) = events.Images(name)
        assert image.encoded_image_string.startswith(PNG)
        assert image.step == fitted.global_step
    (text,) = events.Tensors("pareto/classes/text_summary")
    lines = text.tensor_proto.string_val[0].decode().splitlines()
    assert lines[0].startswith("| class | held-out gain |")
    found = {cells[1].strip(): float(cells[2]) for cells in (line.split("|") for line in lines[2:])}
    assert found == pytest.approx(gains(callback.verdict), rel=1e-3)
    (text,) = events.Tensors("pareto/report/text_summary")
    assert str(tmp_path / "board" / "a" / "pareto" / "report.html") in text.tensor_proto.string_val[0].decode()
    (scalar,) = events.Scalars("pareto/headroom")
    assert scalar.value == pytest.approx(callback.verdict.headroom, rel=1e-4)
    steps = [[event.step for event in events.Scalars(name)] for name in ("val_accuracy/north", "val_accuracy_macro")]
    assert steps[0] == steps[1] != [], "as Lightning counts"


def test_weights_and_biases_shows_images_a_table_and_the_report(tmp_path, monkeypatch):
    need("wandb")
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="p")
    try:
        callback, fitted = fit(tmp_path, logger)
        summary = dict(logger.experiment.summary)
    finally:
        wandb.finish()
        wandb.teardown()
    (media,) = (tmp_path / "wandb").glob("offline-run-*/files/media")
    images = list(media.glob("images/pareto/*.png"))
    assert sorted(path.name.split("_")[0] for path in images) == ["exchange", "headroom"]
    assert all(path.read_bytes().startswith(PNG) for path in images)
    (path,) = media.glob("table/pareto/classes_*.table.json")
    table = json.loads(path.read_text())
    at = table["columns"].index("held-out gain")
    assert {row[0]: row[at] for row in table["data"]} == pytest.approx(gains(callback.verdict))
    (page,) = media.glob("html/pareto/report_*.html")
    assert page.read_text().startswith("<!doctype html>")
    assert summary["pareto/p_value"] == pytest.approx(callback.verdict.p_value)
    assert summary["trainer/global_step"] == fitted.global_step
    assert "val_accuracy/north" in summary


def test_mlflow_keeps_artifacts(tmp_path, monkeypatch):
    need("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLFlowLogger(tracking_uri=f"file:{tmp_path / 'store'}")
    callback, _ = fit(tmp_path, logger)
    run = logger.experiment.get_run(logger.run_id)
    files = {item.path for item in logger.experiment.list_artifacts(logger.run_id, "pareto")}
    assert files == {f"pareto/{n}" for n in ("headroom.png", "exchange_rates.png", "classes.csv", "report.html")}
    (folder,) = (tmp_path / "store").glob(f"*/{logger.run_id}/artifacts/pareto")
    assert (folder / "headroom.png").read_bytes().startswith(PNG)
    assert read_table((folder / "classes.csv").read_text()) == pytest.approx(gains(callback.verdict))
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    assert run.data.metrics["pareto/headroom"] == pytest.approx(callback.verdict.headroom)
    assert "val_accuracy/north" in run.data.metrics


class Other(Logger):
    """A logger of the user's own, with or without a folder."""

    def __init__(self, log_dir=None, fails=False):
        super().__init__()
        self.seen, self.folder, self.fails = {}, log_dir, fails

    @property
    def log_dir(self):
        return self.folder

    @property
    def name(self):
        return "other"

    @property
    def version(self):
        return 0

    def log_hyperparams(self, *_, **__):
        pass

    def log_metrics(self, metrics, step=None):
        if self.fails and "pareto/headroom" in metrics:
            raise ConnectionError("away")
        self.seen.update(metrics)


def test_unknown_logger_gets_metrics_and_files_if_it_has_a_folder(tmp_path):
    with_folder, without = Other(str(tmp_path / "own")), Other()
    fit(tmp_path, without, with_folder)
    assert "pareto/headroom" in without.seen
    assert show_with(without) is None
    assert sorted(path.name for path in (tmp_path / "own" / "pareto").iterdir()) == [
        "classes.csv",
        "exchange_rates.png",
        "headroom.png",
        "report.html",
    ]


def test_logger_that_cannot_show_figures_still_gets_metrics(tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    logger = Other(str(blocked))
    with pytest.warns(UserWarning, match="Other did not accept the verdict's figures"):
        callback, _ = fit(tmp_path, logger, dirpath=tmp_path)
    assert logger.seen["pareto/headroom"] == pytest.approx(callback.verdict.headroom)


def test_failing_logger_warns_once_and_the_others_get_everything(tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callback, _ = fit(tmp_path, Other(str(blocked), fails=True), CSVLogger(tmp_path, name="csv"), dirpath=tmp_path)
    messages = [str(w.message) for w in caught if "Other" in str(w.message)]
    assert len(messages) == 1
    assert "away" in messages[0]
    assert callback.verdict.headroom > 0
    assert (tmp_path / "csv" / "version_0" / "pareto" / "headroom.png").exists()
    assert (tmp_path / "csv" / "version_0" / "pareto" / "report.html").exists(), "copied from dirpath"


def test_figures_can_be_left_out(tmp_path):
    fit(tmp_path, CSVLogger(tmp_path, name="csv"), log_figures=False)
    folder = tmp_path / "csv" / "version_0" / "pareto"
    assert not [path for path in folder.iterdir() if path.suffix in (".png", ".csv", ".html")]


def test_without_the_packages_of_the_report_there_is_a_table_and_no_warning(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in ("matplotlib", "jinja2") else found(name, *a)
    )
    fit(tmp_path, CSVLogger(tmp_path, name="csv"))
    folder = tmp_path / "csv" / "version_0" / "pareto"
    assert not [path for path in folder.iterdir() if path.suffix in (".png", ".html")]
    assert (folder / "classes.csv").exists()


@pytest.mark.slow
def test_no_package_of_a_logger_is_imported_for_another():
    code = (
        "import sys, lightning_pareto\n"
        "from lightning.pytorch.loggers import CSVLogger\n"
        "from lightning_pareto.integration.output.loggers import show_with\n"
        "show_with(CSVLogger('.'))\n"
        "assert not {'wandb', 'mlflow'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
