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
from lightning_pareto import (
    InfluenceMatrix,
    Outcome,
    ParetoVerdict,
    SampleWeights,
    check_pareto,
    label_quality,
    reweight,
)
from lightning_pareto.command_line import main
from lightning_pareto.command_line.inputs import find
from lightning_pareto.pareto.wording import NO_FOLDS
from lightning_pareto.report.html.run import results_folder_of
from lightning_pareto.reweighting.reweight import UNPROVEN
from lightning_pareto.reweighting.weights import PREDICTED
from lightning_pareto.storage.run_folders import INFLUENCE_FILE, VERDICT_FILE, WEIGHTS_FILE

ROOT = Path(__file__).parents[2]
NAMES = ["cat", "2", "c\x1b[31mow"]
FOLDS, SAMPLES = 5, 120


def matrix(gain=2.0, drift=0.0, names=NAMES):
    """Influence of samples a fifth of which harm each category by ``gain``, with some noise in each fold."""
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


def printed(capsys, *arguments, code=0):
    """What a command writes to the standard output; it must write nothing else."""
    assert main([str(each) for each in arguments]) == code
    output = capsys.readouterr()
    assert output.err == ""
    return output.out


def refused(capsys, *arguments, code=2):
    """The one line that a command writes to the standard error."""
    assert main([str(each) for each in arguments]) == code
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("lightning-pareto: error: ")
    assert output.err.count("\n") == 1
    return output.err


def strict(text):
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def no_room():
    """Each category gains only what another loses."""
    labels = np.zeros(90, dtype=int)
    scores = np.tile([[1.0, -1.0], [-1.0, 1.0]], (45, 1))
    return InfluenceMatrix(scores, labels)


@pytest.mark.parametrize(
    ("influence", "code", "answer"),
    [
        (matrix(), 0, "yes"),
        (InfluenceMatrix(matrix().scores, matrix().labels, NAMES), 10, "not proven"),
        (no_room(), 11, "no"),
        (matrix(drift=1.0), 12, "underfitted"),
    ],
    ids=["yes", "not proven", "no", "underfitted"],
)
def test_exit_code_states_the_verdict(influence, code, answer, tmp_path, capsys):
    path = influence.save(tmp_path / "influence.safetensors")
    text = printed(capsys, "check", path, code=code)
    assert f"Pareto improvement possible: {answer.upper()}\n" in text
    assert ("UNDERFITTED" in text) == (code == 12)
    found = strict(printed(capsys, "check", tmp_path, "--json", "--exit-zero"))
    assert found["answer"] == answer
    assert found["improvable"] == (answer in ("yes", "underfitted"))
    assert f"{code} " in printed(capsys, "check", "--help"), "the table of codes is in the help"


def measured(run_folder):
    """Adds what was measured to the run."""
    outcomes = [Outcome.of(np.arange(90) % 3, np.arange(90) % k % 3, NAMES) for k in (80, 90)]
    for outcome, name in zip(outcomes, ("outcome", "step"), strict=True):
        outcome.save(run_folder / "pareto" / f"{name}.safetensors")


def test_check_shows_accuracy_and_the_step_that_answers_the_same_question(run_folder, capsys):
    assert "Accuracy today" not in printed(capsys, "check", run_folder)
    measured(run_folder)
    budget = check_pareto(matrix()).budget
    same = printed(capsys, "check", run_folder, "--budget", str(budget))
    assert "Accuracy today, on 90 validation samples" in same
    assert "Measured: weights were made from one half" in same
    other = printed(capsys, "check", run_folder, "--targets", "cat", "--floors", "-1", "--exit-zero")
    assert "Accuracy today" in other
    assert "Measured: weights" not in other


def test_damaged_outcome_is_left_out(run_folder):
    measured(run_folder)
    (run_folder / "pareto" / "outcome.safetensors").write_bytes(b"half")
    with pytest.warns(UserWarning, match=r"what was measured is left out: .*outcome\.safetensors"):
        assert main(["check", str(run_folder)]) == 0


def test_check_uses_all_options(run_folder, capsys):
    options = ["--budget", "0.1", "--level", "0.2", "--min-gain", "0.02", "--targets", "cat", "1", "--floors", "-0.3"]
    found = strict(printed(capsys, "check", run_folder, *options, "--json", "--exit-zero"))
    expected = check_pareto(matrix(), budget=0.1, level=0.2, min_gain=0.02, targets=["cat", 1], floors=-0.3)
    assert found["p_value"] == expected.p_value
    assert found["headroom"] == expected.headroom
    assert [found[name] for name in ("budget", "level", "min_gain")] == [0.1, 0.2, 0.02]
    rows = found["categories"]
    assert [row["category"] for row in rows] == NAMES
    assert [row["target"] for row in rows] == [True, True, False], "1 is the second category, because no name is 1"
    assert [row["floors"] for row in rows] == [None, None, -0.3]
    np.testing.assert_allclose([row["held_out_gain"] for row in rows], expected.held_out_gain)


def test_name_that_is_a_number_is_a_name(run_folder, capsys):
    found = strict(printed(capsys, "check", run_folder, "--targets", "2", "--json", "--exit-zero"))
    assert [row["target"] for row in found["categories"]] == [False, True, False]


def test_texts_and_errors_command_no_terminal(run_folder, capsys):
    for arguments in (["check", run_folder], ["reweight", run_folder]):
        text = printed(capsys, *arguments)
        assert "\x1b" not in text
        assert "c?[31mow" in text
    assert "\x1b" not in refused(capsys, "check", run_folder, "--targets", "x\x1b[31m")
    assert "\x1b" not in refused(capsys, "check", run_folder / "x\x1b[31m")


def test_tables_command_no_terminal(run_folder, capsys, monkeypatch):
    assert "\x1b" in printed(capsys, "export", run_folder), "a file gets the names unchanged"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    text = printed(capsys, "export", run_folder)
    assert "\x1b" not in text
    assert text.count("c?[31mow") == 1 + SAMPLES // 3  # the heading of its column, and the labels of its samples


def test_paths_command_no_terminal(run_folder, tmp_path, capsys):
    pytest.importorskip("jinja2")
    for command, name in (("reweight", "w\x1b[31m"), ("report", "r\x1b[31m")):
        assert "\x1b" not in printed(capsys, command, run_folder, "-o", tmp_path / name)


def test_reweight_writes_what_the_function_returns(run_folder, tmp_path, capsys):
    path = tmp_path / "new" / "weights.safetensors"
    options = ["--budget", "0.3", "--targets", "cat", "--thresholds", "-0.1", "--return-mass", "multiplicative"]
    found = strict(printed(capsys, "reweight", run_folder, "-o", path, *options, "--json"))
    expected = reweight(matrix(), budget=0.3, targets=["cat"], thresholds=-0.1, return_mass="multiplicative")
    np.testing.assert_array_equal(SampleWeights.load(path).values, expected.values)
    assert found["weights"] == str(path)
    assert found["moved"] == expected.moved
    assert found["left_out"] == (expected.values == 0).sum()
    assert list(found["predicted_gain"].values()) == expected.predicted_gain.tolist()


def test_reweight_with_the_lp_of_the_paper(run_folder, capsys):
    text = printed(capsys, "reweight", run_folder, "--method", "paper", "--max-weight", "1.5", "--thresholds", "0.8")
    expected = reweight(matrix(), method="paper", max_weight=1.5, thresholds=0.8)
    beside = run_folder / "pareto" / "weights.safetensors"
    np.testing.assert_array_equal(SampleWeights.load(beside).values, expected.values)
    assert f"Next: ReweightedDataModule(datamodule, {str(beside)!r})" in text
    assert "% of the training mass. The effective size is" in " ".join(text.split()), (
        "no budget, which this method does not use"
    )
    text = " ".join(printed(capsys, "reweight", run_folder, "--budget", "0.1").split())
    assert "% of the training mass with a budget of 10%. The effective size is" in text


def test_reweight_says_that_nothing_is_proven(tmp_path, capsys):
    noise = np.random.default_rng(0).normal(size=(FOLDS, SAMPLES, 3))
    path = dataclasses.replace(matrix(), fold_scores=noise).save(tmp_path / "influence.safetensors")
    text = " ".join(printed(capsys, "reweight", path).split())
    assert "Next" not in text
    assert text.endswith("The verdict is 'not proven': " + UNPROVEN["not proven"] + ".")
    assert strict(printed(capsys, "reweight", path, "--json"))["options"]["verdict"] == "not proven"


def test_reweight_says_that_there_is_no_verdict_without_folds(tmp_path, capsys):
    path = InfluenceMatrix(matrix().scores, matrix().labels, NAMES).save(tmp_path / "influence.safetensors")
    text = " ".join(printed(capsys, "reweight", path).split())
    assert "Next" not in text
    assert text.endswith(NO_FOLDS)


def test_reweight_says_how_far_to_trust_predicted_gains(run_folder, capsys):
    assert PREDICTED in " ".join(printed(capsys, "reweight", run_folder).split())


def table(text):
    return list(csv.DictReader(text.splitlines()))


def test_export_has_a_row_for_each_sample(run_folder, capsys):
    influence = matrix()
    columns = ["index", "given", "given_name", "predicted", "total", *NAMES]
    rows = table(printed(capsys, "export", run_folder))
    assert list(rows[0]) == columns
    assert [int(row["index"]) for row in rows] == list(range(SAMPLES))
    assert [int(row["given"]) for row in rows] == influence.labels.tolist()
    assert [row["given_name"] for row in rows] == [NAMES[label] for label in influence.labels]
    assert [int(row["predicted"]) for row in rows] == influence.predicted.tolist()
    np.testing.assert_allclose([float(row["total"]) for row in rows], influence.total())
    np.testing.assert_allclose([[float(row[name]) for name in NAMES] for row in rows], influence.scores)

    printed(capsys, "reweight", run_folder, "--budget", "0.2")
    rows = table(printed(capsys, "export", run_folder))
    assert list(rows[0]) == [*columns, "weight"], "weights next to the influence are included"
    np.testing.assert_allclose([float(row["weight"]) for row in rows], reweight(influence).values)


def test_export_of_suspects(run_folder, tmp_path, capsys):
    printed(capsys, "reweight", run_folder, "--budget", "0.2")
    path = tmp_path / "suspects.json"
    found = strict(printed(capsys, "export", run_folder, "--what", "suspects", "--count", "7", "-o", path, "--json"))
    assert (found["rows"], found["format"], found["written"]) == (7, "json", str(path))
    assert found["columns"] == ["index", "given", "given_name", "predicted", "quality", "total", *NAMES, "weight"]
    rows = strict(path.read_text())
    assert [row["index"] for row in rows] == label_quality(matrix()).argsort()[:7].tolist()
    assert [list(row) for row in rows] == [found["columns"]] * 7
    weights = reweight(matrix()).values
    np.testing.assert_allclose([row["weight"] for row in rows], weights[[row["index"] for row in rows]])


def test_export_as_arrays(run_folder, tmp_path, capsys):
    path = tmp_path / "influence.npz"
    printed(capsys, "export", run_folder, "-o", path)
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays.files == ["index", "given", "given_name", "predicted", "total", *NAMES]
        np.testing.assert_array_equal(np.stack([arrays[name] for name in NAMES], axis=1), matrix().scores)
        np.testing.assert_array_equal(arrays["given"], matrix().labels)
        assert arrays["given_name"].tolist() == [NAMES[label] for label in matrix().labels]
    verdict, name = ParetoVerdict.load(run_folder / "pareto" / "verdict.safetensors"), tmp_path / "no suffix"
    printed(capsys, "export", run_folder, "--what", "verdict", "--to", "npz", "-o", name)
    with np.load(name, allow_pickle=False) as arrays:
        assert arrays["category"].tolist() == NAMES
        np.testing.assert_array_equal(arrays["held_out_gain"], verdict.held_out_gain)
        assert arrays["target"].dtype == bool


@pytest.mark.parametrize("form", ["csv", "json", "npz"])
def test_categories_may_have_any_name(tmp_path, capsys, form):
    """Also those of columns, and that of a parameter of ``numpy.savez``."""
    influence = matrix(names=["given", "file", 'a, "b"/猫'])
    path = influence.save(tmp_path / "influence.safetensors").with_name("table")
    printed(capsys, "export", tmp_path, "--to", form, "-o", path)
    columns = ["index", "given", "given_name", "predicted", "total", "influence on given", "file", 'a, "b"/猫']
    if form == "npz":
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    else:
        rows = strict(path.read_text("utf-8")) if form == "json" else table(path.read_text("utf-8"))
        found = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    assert list(found) == columns
    for k, name in enumerate(columns[5:]):
        np.testing.assert_allclose(found[name].astype(float), influence.scores[:, k], rtol=1e-6)


def test_export_of_single_files(run_folder, capsys):
    printed(capsys, "reweight", run_folder, "--budget", "0.2")
    weights = table(printed(capsys, "export", run_folder / "pareto" / "weights.safetensors"))
    assert list(weights[0]) == ["index", "weight"]
    rows = table(printed(capsys, "export", run_folder / "pareto" / "verdict.safetensors"))
    kept = ParetoVerdict.load(run_folder / "pareto" / "verdict.safetensors")
    np.testing.assert_allclose([float(row["held_out_gain"]) for row in rows], kept.held_out_gain)
    assert {row["floors"] for row in rows} == {""}, "NaN is an empty cell"


def test_category_without_samples_is_null(tmp_path, capsys):
    scores = matrix().scores.copy()
    scores[:, 1] = np.nan
    InfluenceMatrix(scores, matrix().labels, NAMES).save(tmp_path / "influence.safetensors")
    assert strict(printed(capsys, "export", tmp_path, "--to", "json"))[0]["2"] is None
    assert table(printed(capsys, "export", tmp_path))[0]["2"] == ""
    assert strict(printed(capsys, "check", tmp_path, "--json", code=10))["categories"][1]["alone"] is None
    assert strict(printed(capsys, "reweight", tmp_path, "--json"))["predicted_gain"]["2"] is None
    assert "no validation samples" in printed(capsys, "reweight", tmp_path)


def test_errors_say_how_to_fix_them(run_folder, tmp_path, capsys):
    influence = run_folder / "pareto" / "influence.safetensors"
    assert "required" in refused(capsys, "check")
    assert "invalid choice" in refused(capsys, "improve", run_folder)
    assert "'budget'" in refused(capsys, "check", run_folder, "--budget", "much").replace('"', "'")
    assert "in (0, 1], found 2.0" in refused(capsys, "check", run_folder, "--budget", "2")
    assert "floors apply to categories that need not gain" in refused(capsys, "check", run_folder, "--floors", "0")
    assert "unknown target 'dog'" in refused(capsys, "reweight", run_folder, "--targets", "dog")
    assert "Lower its threshold" in refused(capsys, "reweight", run_folder, "--thresholds", "9")
    assert "pass the folder of a run, or its influence.safetensors" in refused(capsys, "check", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "ParetoCallback writes it after a fit" in refused(capsys, "check", tmp_path / "empty")
    assert "-o FILE" in refused(capsys, "export", run_folder, "--to", "npz")
    assert "ends in .csv, .json or .npz, or --to" in refused(capsys, "export", run_folder, "-o", tmp_path / "i.xlsx")
    assert "at least 1" in refused(capsys, "export", run_folder, "--what", "suspects", "--count", "0")
    assert "holds 'verdict', expected 'influence'" in refused(capsys, "check", influence.with_stem("verdict"))
    influence.write_bytes(influence.read_bytes()[:1000])
    assert "not a valid safetensors file" in refused(capsys, "check", run_folder)
    assert "not a valid safetensors file" in refused(capsys, "export", influence)
    SampleWeights(np.ones(3)).save(tmp_path / "other.safetensors")
    matrix().save(influence)
    error = refused(capsys, "export", run_folder, "--weights", tmp_path / "other.safetensors")
    assert "expected 120 weights, one per sample, found 3 in" in error
    assert "pass the right ones with --weights FILE" in error


def test_newest_of_several_runs_is_used_and_named(run_folder, tmp_path, capsys):
    printed(capsys, "check", tmp_path)
    newest = no_room().save(tmp_path / "a\x1b[31m" / "pareto" / "influence.safetensors")
    os.utime(newest, (4e9, 4e9))
    assert main(["check", str(tmp_path)]) == 11
    error = capsys.readouterr().err
    assert error.startswith("lightning-pareto: using the newest of 2 runs: ")
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
def test_files_that_the_newest_run_lacks_come_from_an_older_one_with_a_note(tmp_path, capsys, runs):
    older, newer = two_runs(tmp_path, *runs)
    assert find(tmp_path, "influence").parent == newer
    assert capsys.readouterr().err == f"lightning-pareto: using the newest of 2 runs: {newer}\n"
    for kind in ("verdict", "weights"):
        assert find(tmp_path, kind) == older / f"{kind}.safetensors"
        note = f"using the older run {older}, because the newest, {newer}, has no {kind}.safetensors"
        assert capsys.readouterr().err == f"lightning-pareto: {note}\n"
    assert find(tmp_path, "verdict").parent == results_folder_of(tmp_path), "the report agrees"


def test_report_of_an_older_run_is_announced(tmp_path, capsys):
    pytest.importorskip("jinja2", reason="the report is an extra: pip install 'lightning_pareto[report]'")
    older, newer = two_runs(tmp_path, "pareto", "pareto_1")
    assert main(["report", str(tmp_path)]) == 0
    note = f"reporting the older run {older}, because the newest, {newer}, has neither verdict nor result"
    assert capsys.readouterr().err == f"lightning-pareto: {note}\n"


def test_influence_of_a_search_is_found(tmp_path, capsys):
    matrix(2.0).save(tmp_path / "search" / "finished" / "influence_1" / INFLUENCE_FILE)
    for folder in (tmp_path / "search", tmp_path):
        found = json.loads(printed(capsys, "check", folder, "--json", "--exit-zero"))
        assert found["answer"] == "yes"


def test_report_writes_one_file(run_folder, tmp_path, capsys):
    pytest.importorskip("jinja2", reason="the report is an extra: pip install 'lightning_pareto[report]'")
    path = tmp_path / "report.html"
    assert strict(printed(capsys, "report", run_folder, "-o", path, "--json")) == {"report": str(path)}
    assert path.read_text(encoding="utf-8").lstrip().startswith("<!")
    assert printed(capsys, "report", run_folder) == f"Written: {run_folder / 'report.html'}\n"
    (tmp_path / "empty").mkdir()
    assert "which ParetoCallback writes after a fit" in refused(capsys, "report", tmp_path / "empty")


def test_missing_extra_is_named_by_the_report_command(run_folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert "pip install 'lightning_pareto[report]'" in refused(capsys, "report", run_folder, code=3)


def test_labels_have_names_if_the_categories_are_the_classes(run_folder, capsys):
    assert table(printed(capsys, "export", run_folder))[1]["given_name"] == "2"
    own = dataclasses.replace(matrix(), metadata={"categories": "own"})
    own.save(run_folder / "pareto" / "influence.safetensors")
    assert "given_name" not in table(printed(capsys, "export", run_folder))[1]


def test_missing_extra_is_named_by_the_commands(run_folder, capsys, monkeypatch):
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


def test_command_line_runs_as_a_module_and_is_a_script(run_folder):
    assert 'lightning-pareto = "lightning_pareto.command_line:main"' in (ROOT / "pyproject.toml").read_text()
    done = command("check", run_folder, "--targets", "cat")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Asked for cat" in done.stdout


def test_closed_output_is_no_error(run_folder):
    shell = f"{sys.executable} -m lightning_pareto export {run_folder} | head -n 1; echo ${{PIPESTATUS[0]}}"
    many = InfluenceMatrix(np.tile(matrix().scores, (500, 1)), np.tile(matrix().labels, 500))  # more than a pipe holds
    many.save(run_folder / "pareto" / "influence.safetensors")
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False, timeout=100)
    assert done.stderr == ""
    assert done.stdout.splitlines()[1] == "141"


def test_help_imports_neither_torch_nor_lightning():
    code = (
        "import sys, lightning_pareto.command_line as c; assert c.main(['--help']) == 0;"
        "assert not {'torch', 'lightning', 'scipy', 'numpy'} & set(sys.modules)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "exit codes:" in done.stdout
    assert time.perf_counter() - start < 20


def test_commands_do_not_import_lightning(run_folder):
    code = (
        f"import sys, lightning_pareto.command_line as c; c.main(['check', {str(run_folder)!r}]);"
        f"c.main(['reweight', {str(run_folder)!r}]); c.main(['export', {str(run_folder)!r}]);"
        "assert not {'lightning', 'torchmetrics', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr


def test_public_names_are_imported_on_access():
    assert set(lightning_pareto.__all__) <= set(dir(lightning_pareto))
    with pytest.raises(AttributeError, match="no attribute 'ParetoCalback'"):
        _ = lightning_pareto.ParetoCalback


def test_budget_and_level_of_the_fit_are_used_by_default(tmp_path, capsys):
    """The influence remembers them, wherever its file is and whatever the verdict next to it was asked."""
    influence = dataclasses.replace(matrix(), metadata={"budget": 0.35, "level": 0.1})
    influence.save(tmp_path / "influence.safetensors")
    check_pareto(influence, budget=0.5, level=0.2).save(tmp_path / "verdict.safetensors")
    found = strict(printed(capsys, "check", tmp_path, "--json", "--exit-zero"))
    assert (found["budget"], found["level"]) == (0.35, 0.1)
    options = ["--budget", "0.1", "--level", "0.01"]
    found = strict(printed(capsys, "check", tmp_path, *options, "--json", "--exit-zero"))
    assert (found["budget"], found["level"]) == (0.1, 0.01)
    weights = tmp_path / "weights.safetensors"
    printed(capsys, "reweight", tmp_path)
    np.testing.assert_array_equal(SampleWeights.load(weights).values, reweight(matrix(), budget=0.35).values)
    printed(capsys, "reweight", tmp_path, "--budget", "0.2")
    np.testing.assert_array_equal(SampleWeights.load(weights).values, reweight(matrix()).values)
    trial = tmp_path / "search" / "finished" / "influence_1"
    influence.save(trial / "influence.safetensors")
    assert strict(printed(capsys, "check", tmp_path / "search", "--json", "--exit-zero"))["budget"] == 0.35


def test_influence_by_hand_has_the_default_budget_and_level(run_folder, capsys):
    found = strict(printed(capsys, "check", run_folder, "--json", "--exit-zero"))
    assert (found["budget"], found["level"]) == (0.2, 0.05)


def test_report_needs_results_and_says_of_which_run(run_folder, tmp_path, capsys):
    (tmp_path / "script.py").write_text("print()")
    assert "expected the folder of a run or one of its .safetensors files" in refused(
        capsys, "report", tmp_path / "script.py"
    )
    assert main(["report", str(run_folder.parent), "-o", str(tmp_path / "report.html")]) == 0
    assert f"reporting the newest run: {run_folder / 'pareto'}" in capsys.readouterr().err
