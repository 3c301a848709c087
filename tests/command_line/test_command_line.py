"""The command line, through its entry point."""

import csv
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import lightning_pareto
from lightning_pareto import InfluenceMatrix, ParetoVerdict, SampleWeights, check_pareto, reweight
from lightning_pareto.command_line import main
from lightning_pareto.command_line.inputs import find
from lightning_pareto.report.html.run import home_of
from lightning_pareto.storage.run_folders import INFLUENCE_FILE, VERDICT_FILE, WEIGHTS_FILE

ROOT = Path(__file__).parents[2]
NAMES = ["cat", "2", "c\x1b[31mow"]
FOLDS, SAMPLES = 5, 120


def matrix(gain=2.0, drift=0.0, names=NAMES):
    """Influence of samples of which a fifth harms every category by ``gain``, the same in every fold but for noise."""
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(SAMPLES, 3))
    signal[: SAMPLES // 5] -= gain
    signal += drift - signal.mean(axis=0)
    folds = signal + 0.1 * rng.normal(size=(FOLDS, SAMPLES, 3))
    return InfluenceMatrix(
        folds.mean(axis=0),
        np.arange(SAMPLES) % 3,
        names,
        support=np.full(3, 50 * FOLDS),
        fold_scores=folds,
        fold_support=np.full((FOLDS, 3), 50),
        predicted=np.arange(SAMPLES) % 2,
    )


@pytest.fixture
def run_folder(tmp_path):
    influence = matrix()
    influence.save(tmp_path / "version_0" / "pareto" / "influence.safetensors")
    check_pareto(influence, budget=0.3).save(tmp_path / "version_0" / "pareto" / "verdict.safetensors")
    return tmp_path / "version_0"


def said(capsys, *arguments, code=0):
    assert main([str(each) for each in arguments]) == code
    output = capsys.readouterr()
    assert output.err == ""
    return output.out


def refused(capsys, *arguments, code=2):
    """The one line on the standard error."""
    assert main([str(each) for each in arguments]) == code
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("lightning-pareto: error: ")
    assert output.err.count("\n") == 1
    return output.err


def strict(text):
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def no_room():
    """Every category gains only what another loses."""
    labels = np.zeros(90, dtype=int)
    scores = np.tile([[1.0, -1.0], [-1.0, 1.0]], (45, 1))
    return InfluenceMatrix(scores, labels)


@pytest.mark.parametrize(
    ("influence", "code", "answer"),
    [
        (matrix(), 0, "yes"),
        (InfluenceMatrix(matrix().scores, matrix().labels, NAMES), 10, "not proven"),
        (no_room(), 11, "no"),
        (matrix(drift=1.0), 12, "yes"),
    ],
    ids=["yes", "not proven", "no", "underfitted"],
)
def test_the_exit_code_says_the_verdict(influence, code, answer, tmp_path, capsys):
    path = influence.save(tmp_path / "influence.safetensors")
    text = said(capsys, "check", path, code=code)
    assert f"Pareto improvement possible: {answer.upper()}" in text
    assert ("UNDERFITTED" in text) == (code == 12)
    found = strict(said(capsys, "check", tmp_path, "--json", "--exit-zero"))
    assert found["answer"] == answer
    assert f"{code} " in said(capsys, "check", "--help"), "the table of codes is in the help"


def test_check_passes_every_option_on(run_folder, capsys):
    options = ["--budget", "0.1", "--level", "0.2", "--min-gain", "0.02", "--targets", "cat", "1", "--floors", "-0.3"]
    found = strict(said(capsys, "check", run_folder, *options, "--json", "--exit-zero"))
    expected = check_pareto(matrix(), budget=0.1, level=0.2, min_gain=0.02, targets=["cat", 1], floors=-0.3)
    assert found["p_value"] == expected.p_value
    assert found["headroom"] == expected.headroom
    assert [found[name] for name in ("budget", "level", "min_gain")] == [0.1, 0.2, 0.02]
    rows = found["categories"]
    assert [row["category"] for row in rows] == NAMES
    assert [row["target"] for row in rows] == [True, True, False], "1 is the second category, as no name is 1"
    assert [row["floors"] for row in rows] == [None, None, -0.3]
    np.testing.assert_allclose([row["held_out_gain"] for row in rows], expected.held_out_gain)


def test_a_name_that_is_a_number_is_a_name(run_folder, capsys):
    found = strict(said(capsys, "check", run_folder, "--targets", "2", "--json", "--exit-zero"))
    assert [row["target"] for row in found["categories"]] == [False, True, False]


def test_nothing_shown_is_obeyed_by_a_terminal(run_folder, capsys):
    for arguments in (["check", run_folder], ["reweight", run_folder]):
        text = said(capsys, *arguments)
        assert "\x1b" not in text
        assert "c?[31mow" in text
    assert "\x1b" not in refused(capsys, "check", run_folder, "--targets", "x\x1b[31m")
    assert "\x1b" not in refused(capsys, "check", run_folder / "x\x1b[31m")


def test_no_cell_of_a_table_is_obeyed_by_a_terminal(run_folder, capsys, monkeypatch):
    assert "\x1b" in said(capsys, "export", run_folder), "a file gets the names as they are"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    text = said(capsys, "export", run_folder)
    assert "\x1b" not in text
    assert text.count("c?[31mow") == 1 + SAMPLES // 3  # the heading of its column, and its samples' label


def test_a_path_that_is_told_is_not_obeyed_by_a_terminal(run_folder, tmp_path, capsys):
    pytest.importorskip("jinja2")
    for command, name in (("reweight", "w\x1b[31m"), ("report", "r\x1b[31m")):
        assert "\x1b" not in said(capsys, command, run_folder, "-o", tmp_path / name)


def test_reweight_writes_what_the_function_gives(run_folder, tmp_path, capsys):
    path = tmp_path / "new" / "weights.safetensors"
    options = ["--budget", "0.3", "--targets", "cat", "--thresholds", "-0.1", "--return-mass", "multiplicative"]
    found = strict(said(capsys, "reweight", run_folder, "-o", path, *options, "--json"))
    expected = reweight(matrix(), budget=0.3, targets=["cat"], thresholds=-0.1, return_mass="multiplicative")
    np.testing.assert_array_equal(SampleWeights.load(path).values, expected.values)
    assert found["weights"] == str(path)
    assert found["moved"] == expected.moved
    assert found["left_out"] == (expected.values == 0).sum()
    assert list(found["predicted_gain"].values()) == expected.predicted_gain.tolist()


def test_reweight_by_the_paper(run_folder, capsys):
    text = said(capsys, "reweight", run_folder, "--method", "paper", "--max-weight", "1.5", "--thresholds", "0.8")
    expected = reweight(matrix(), method="paper", max_weight=1.5, thresholds=0.8)
    beside = run_folder / "pareto" / "weights.safetensors"
    np.testing.assert_array_equal(SampleWeights.load(beside).values, expected.values)
    assert f"Next: ReweightedDataModule(datamodule, {str(beside)!r})" in text


def table(text):
    return list(csv.DictReader(text.splitlines()))


def test_export_gives_a_row_for_each_sample(run_folder, capsys):
    influence = matrix()
    columns = ["index", "label", "label_name", "predicted", "total", *(f"influence/{name}" for name in NAMES)]
    rows = table(said(capsys, "export", run_folder))
    assert list(rows[0]) == columns
    assert [int(row["index"]) for row in rows] == list(range(SAMPLES))
    assert [int(row["label"]) for row in rows] == influence.labels.tolist()
    np.testing.assert_allclose([float(row["total"]) for row in rows], influence.total())
    np.testing.assert_allclose([[float(row[name]) for name in columns[5:]] for row in rows], influence.scores)

    said(capsys, "reweight", run_folder, "--budget", "0.2")
    rows = table(said(capsys, "export", run_folder))
    assert list(rows[0]) == [*columns, "weight"], "weights that lie beside it come along"
    np.testing.assert_allclose([float(row["weight"]) for row in rows], reweight(influence).values)


def test_export_of_the_suspects(run_folder, tmp_path, capsys):
    said(capsys, "reweight", run_folder, "--budget", "0.2")
    path = tmp_path / "suspects.json"
    found = strict(said(capsys, "export", run_folder, "--what", "suspects", "--count", "7", "-o", path, "--json"))
    assert (found["rows"], found["format"], found["written"]) == (7, "json", str(path))
    rows = strict(path.read_text())
    assert [row["index"] for row in rows] == matrix().total().argsort()[:7].tolist()
    assert list(rows[0]["influence"]) == NAMES
    weights = reweight(matrix()).values
    np.testing.assert_allclose([row["weight"] for row in rows], weights[[row["index"] for row in rows]])


def test_export_as_arrays(run_folder, tmp_path, capsys):
    path = tmp_path / "influence.npz"
    said(capsys, "export", run_folder, "-o", path)
    with np.load(path, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["influence"], matrix().scores)
        np.testing.assert_array_equal(arrays["label"], matrix().labels)
        assert arrays["category_names"].tolist() == NAMES


def test_export_of_what_a_file_holds(run_folder, capsys):
    said(capsys, "reweight", run_folder, "--budget", "0.2")
    weights = table(said(capsys, "export", run_folder / "pareto" / "weights.safetensors"))
    assert list(weights[0]) == ["index", "weight"]
    rows = table(said(capsys, "export", run_folder / "pareto" / "verdict.safetensors"))
    kept = ParetoVerdict.load(run_folder / "pareto" / "verdict.safetensors")
    np.testing.assert_allclose([float(row["held_out_gain"]) for row in rows], kept.held_out_gain)
    assert {row["floors"] for row in rows} == {""}, "NaN is an empty cell"


def test_a_category_without_samples_is_null(tmp_path, capsys):
    scores = matrix().scores.copy()
    scores[:, 1] = np.nan
    InfluenceMatrix(scores, matrix().labels, NAMES).save(tmp_path / "influence.safetensors")
    assert strict(said(capsys, "export", tmp_path, "--to", "json"))[0]["influence"]["2"] is None
    assert table(said(capsys, "export", tmp_path))[0]["influence/2"] == ""
    assert strict(said(capsys, "check", tmp_path, "--json", code=10))["categories"][1]["alone"] is None
    assert strict(said(capsys, "reweight", tmp_path, "--json"))["predicted_gain"]["2"] is None
    assert "no validation samples" in said(capsys, "reweight", tmp_path)


def test_errors_say_how_to_mend_them(run_folder, tmp_path, capsys):
    influence = run_folder / "pareto" / "influence.safetensors"
    assert "required" in refused(capsys, "check")
    assert "invalid choice" in refused(capsys, "improve", run_folder)
    assert "'budget'" in refused(capsys, "check", run_folder, "--budget", "much").replace('"', "'")
    assert "in (0, 1], found 2.0" in refused(capsys, "check", run_folder, "--budget", "2")
    assert "floors apply to categories that need not gain" in refused(capsys, "check", run_folder, "--floors", "0")
    assert "unknown target 'dog'" in refused(capsys, "reweight", run_folder, "--targets", "dog")
    assert "Lower its threshold" in refused(capsys, "reweight", run_folder, "--thresholds", "9")
    assert "give the folder of a run" in refused(capsys, "check", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "ParetoCallback writes it after a fit" in refused(capsys, "check", tmp_path / "empty")
    assert "-o FILE" in refused(capsys, "export", run_folder, "--to", "npz")
    assert "--to csv" in refused(capsys, "export", run_folder, "-o", tmp_path / "influence.xlsx")
    assert "at least 1" in refused(capsys, "export", run_folder, "--what", "suspects", "--count", "0")
    assert "holds 'verdict', expected 'influence'" in refused(capsys, "check", influence.with_stem("verdict"))
    influence.write_bytes(influence.read_bytes()[:1000])
    assert "not a valid safetensors file" in refused(capsys, "check", run_folder)
    assert "not a valid safetensors file" in refused(capsys, "export", influence)
    SampleWeights(np.ones(3)).save(tmp_path / "other.safetensors")
    matrix().save(influence)
    assert "3 weights, the influence 120" in refused(
        capsys, "export", run_folder, "--weights", tmp_path / "other.safetensors"
    )


def test_of_several_runs_the_newest_is_taken_and_named(run_folder, tmp_path, capsys):
    said(capsys, "check", tmp_path)
    newest = no_room().save(tmp_path / "a\x1b[31m" / "pareto" / "influence.safetensors")
    os.utime(newest, (4e9, 4e9))
    assert main(["check", str(tmp_path)]) == 11
    error = capsys.readouterr().err
    assert error.startswith("lightning-pareto: of 2 runs the newest: ")
    assert error.endswith("a?[31m/pareto\n")


def two_runs(tmp_path, older, newer):
    """An older run with everything, and a newer one with influence only."""
    influence = matrix()
    for age, run in enumerate((newer, older)):
        folder = tmp_path / run
        results = [influence.save(folder / INFLUENCE_FILE)]
        if run == older:
            results.append(check_pareto(influence).save(folder / VERDICT_FILE))
        for path in results:
            os.utime(path, (0, 1000 - age))
    reweight(influence).save(tmp_path / older / WEIGHTS_FILE)
    return tmp_path / older, tmp_path / newer


@pytest.mark.parametrize("runs", [("pareto", "pareto_1"), ("a/pareto", "b/pareto")])
def test_what_the_newest_run_lacks_is_taken_from_an_older_one_and_that_is_said(tmp_path, capsys, runs):
    older, newer = two_runs(tmp_path, *runs)
    assert find(tmp_path, "influence").parent == newer
    assert capsys.readouterr().err == f"lightning-pareto: of 2 runs the newest: {newer}\n"
    for kind in ("verdict", "weights"):
        assert find(tmp_path, kind) == older / f"{kind}.safetensors"
        told = f"the newest run, {newer}, has no {kind}.safetensors: that of an older one is taken, {older}"
        assert capsys.readouterr().err == f"lightning-pareto: {told}\n"
    assert find(tmp_path, "verdict").parent == home_of(tmp_path), "the report agrees"


def test_a_report_of_an_older_run_says_so(tmp_path, capsys):
    pytest.importorskip("jinja2", reason="the report is an extra: pip install 'lightning_pareto[report]'")
    older, newer = two_runs(tmp_path, "pareto", "pareto_1")
    assert main(["report", str(tmp_path)]) == 0
    told = f"the newest run, {newer}, has neither verdict nor result: that of an older one is reported, {older}"
    assert capsys.readouterr().err == f"lightning-pareto: {told}\n"


def test_of_a_search_the_influence_is_that_of_its_verdict(tmp_path, capsys):
    """A search with two measures leaves two, and the one on the second measure is the newest."""
    for age, (measure, gain) in enumerate({"soft_error": 0.0, "loss": 2.0}.items()):
        path = matrix(gain).save(tmp_path / "search" / "finished" / f"influence_on_the_{measure}_1" / INFLUENCE_FILE)
        os.utime(path, (0, 1000 - age))
    for folder in (tmp_path / "search", tmp_path):
        found = json.loads(said(capsys, "check", folder, "--json", "--exit-zero"))
        assert found["answer"] == "yes"
        assert find(folder, "influence").parent.name == "influence_on_the_loss_1"


def test_report_writes_one_file(run_folder, tmp_path, capsys):
    pytest.importorskip("jinja2", reason="the report is an extra: pip install 'lightning_pareto[report]'")
    path = tmp_path / "report.html"
    assert strict(said(capsys, "report", run_folder, "-o", path, "--json")) == {"report": str(path)}
    assert path.read_text(encoding="utf-8").lstrip().startswith("<!")
    assert said(capsys, "report", run_folder) == f"Written: {run_folder / 'report.html'}\n"
    (tmp_path / "empty").mkdir()
    assert "ParetoCallback() writes after a fit" in refused(capsys, "report", tmp_path / "empty")


def test_a_report_without_the_extra_says_what_to_install(run_folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert "pip install 'lightning_pareto[report]'" in refused(capsys, "report", run_folder, code=3)


def test_labels_have_names_where_the_categories_are_the_classes(run_folder, capsys):
    assert table(said(capsys, "export", run_folder))[1]["label_name"] == "2"
    own = dataclasses.replace(matrix(), metadata={"categories": "own"})
    own.save(run_folder / "pareto" / "influence.safetensors")
    assert "label_name" not in table(said(capsys, "export", run_folder))[1]


def test_without_the_extra_one_line_says_what_to_install(run_folder, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "lightning_pareto.command_line.parser", raising=False)
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    error = refused(capsys, "check", run_folder, code=3)
    assert "jsonargparse: pip install 'lightning_pareto[cli]'" in error


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "lightning_pareto", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_it_runs_as_a_module_and_is_registered_as_a_script(run_folder):
    assert 'lightning-pareto = "lightning_pareto.command_line:main"' in (ROOT / "pyproject.toml").read_text()
    done = command("check", run_folder, "--targets", "cat")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Asked for cat" in done.stdout


def test_a_reader_that_goes_away_is_no_error(run_folder):
    shell = f"{sys.executable} -m lightning_pareto export {run_folder} | head -n 1; echo ${{PIPESTATUS[0]}}"
    many = InfluenceMatrix(np.tile(matrix().scores, (50, 1)), np.tile(matrix().labels, 50))  # more than a pipe holds
    many.save(run_folder / "pareto" / "influence.safetensors")
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False, timeout=100)
    assert done.stderr == ""
    assert done.stdout.splitlines()[1] == "141"


def test_help_needs_neither_torch_nor_lightning():
    code = (
        "import sys, lightning_pareto.command_line as c; assert c.main(['--help']) == 0;"
        "assert not {'torch', 'lightning', 'scipy', 'numpy'} & set(sys.modules)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "exit codes:" in done.stdout
    assert time.perf_counter() - start < 20


def test_the_commands_need_no_lightning(run_folder):
    code = (
        f"import sys, lightning_pareto.command_line as c; c.main(['check', {str(run_folder)!r}]);"
        f"c.main(['reweight', {str(run_folder)!r}]); c.main(['export', {str(run_folder)!r}]);"
        "assert not {'lightning', 'torchmetrics', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr


def test_names_are_looked_up_when_asked_for():
    assert set(lightning_pareto.__all__) <= set(dir(lightning_pareto))
    with pytest.raises(AttributeError, match="no attribute 'ParetoCalback'"):
        _ = lightning_pareto.ParetoCalback


def test_the_budget_and_level_of_the_run_are_those_of_its_verdict(run_folder, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    influence = InfluenceMatrix.load(run_folder / "pareto" / "influence.safetensors")
    influence.save(folder / "influence.safetensors")
    assert json.loads(said(capsys, "check", folder, "--json", "--exit-zero"))["budget"] == 0.2
    check_pareto(influence, budget=0.35, level=0.1).save(folder / "verdict.safetensors")
    found = json.loads(said(capsys, "check", folder, "--json", "--exit-zero"))
    assert (found["budget"], found["level"]) == (0.35, 0.1)
    assert json.loads(said(capsys, "check", folder, "--budget", "0.1", "--json", "--exit-zero"))["budget"] == 0.1
    said(capsys, "reweight", folder)
    assert SampleWeights.load(folder / "weights.safetensors").metadata["budget"] == 0.35
    (folder / "influence.safetensors").rename(folder / "kept")  # as a search keeps it
    trial = folder / "finished" / "influence_on_the_loss_1"
    influence.save(trial / "influence.safetensors")
    assert json.loads(said(capsys, "check", folder, "--json", "--exit-zero"))["budget"] == 0.35


def test_a_report_is_of_results_only_and_says_of_which_run(run_folder, tmp_path, capsys):
    (tmp_path / "script.py").write_text("print()")
    assert "is not a result" in refused(capsys, "report", tmp_path / "script.py")
    assert main(["report", str(run_folder.parent), "-o", str(tmp_path / "report.html")]) == 0
    assert f"of the newest run: {run_folder / 'pareto'}" in capsys.readouterr().err
