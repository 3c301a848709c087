"""The result of a search: its columns, as text, HTML and data frame, and its file."""

from dataclasses import replace

import numpy as np
import pytest

from lightning_pareto import ParetoResult
from lightning_pareto.evaluation.result import COLUMNS
from lightning_pareto.storage.artifacts import load_artifact, save_artifact
from tests.report._results import influence, result


@pytest.fixture
def accepted():
    return result(influence(3, absent=(1,)))


def table_of(found):
    """The printed table: headings, and cells by category."""
    lines = str(found).split("\n\n")[1].splitlines()
    return lines[0], {line.split("  ")[0].strip(): line.split()[-len(found.shown_columns) :] for line in lines[1:]}


def test_text_shows_the_cells_of_the_columns(accepted):
    head, rows = table_of(accepted)
    assert accepted.shown_columns == ["before", "after", "change", "p_values", "support"]
    assert head.split() == " ".join(["category", *(COLUMNS[name].heading for name in accepted.shown_columns)]).split()
    for k, name in enumerate(accepted.category_names):
        assert rows[name] == [COLUMNS[column].cells(accepted)[k] for column in accepted.shown_columns]
    assert rows["class 1"] == ["–", "–", "–", "–", "0"]
    assert f"{100 * np.nanmean(accepted.after):.1f}" in rows["mean"]
    assert list(rows) == [*(accepted.category_names[k] for k in np.argsort(accepted.before)), "mean"], "worst first"


def test_text_says_what_was_decided_and_what_it_rests_on(accepted):
    text = " ".join(str(accepted).split())
    assert text.startswith("Better model accepted: The mean accuracy changes by +3.1 ± 1.2 points")
    assert "on validation samples that the weights have not seen" in text
    assert "counts as beyond chance if it is so for all categories together (Holm)" in text
    assert "31 epochs spent in 4 trials." in text
    better, worse = accepted.attempts
    assert f"steps (returned) {100 * better.mean:+.1f} ± 1.0 {100 * better.worst:+.1f} 0" in text
    assert f"{100 * worse.worst:+.1f} 1" in text
    assert text.endswith("Model: /runs/best.ckpt")
    assert str(replace(accepted, accepted=False)).startswith("Better model not accepted:\n")


def test_what_a_refused_model_would_have_reached_has_a_column_of_its_own():
    refused = result(influence(3), accepted=False)
    head, rows = table_of(refused)
    assert head.endswith("refused")
    assert rows["class 2"][-1] == f"{100 * refused.refused[2]:.1f}"
    assert COLUMNS["refused"].meaning in " ".join(str(refused).split())


def test_notebook_shows_the_same_cells(accepted):
    page = accepted._repr_html_()
    for name in accepted.shown_columns:
        assert f">{COLUMNS[name].heading}<" in page
        assert all(f">{cell}<" in page for cell in COLUMNS[name].cells(accepted))
    assert "refused" not in page


def test_data_frame_holds_shares(accepted):
    frame = accepted.to_pandas()
    assert list(frame.columns) == ["before", "after", "support", "p_values", "ordinary", "change"]
    np.testing.assert_array_equal(frame["change"], accepted.after - accepted.before)


@pytest.mark.parametrize("accepts", [True, False])
def test_file_holds_everything(tmp_path, accepts):
    found = result(influence(3, absent=(1,)), accepted=accepts)
    again = ParetoResult.load(found.save(tmp_path / "result.safetensors"))
    assert str(again) == str(found)
    assert again.trials == found.trials
    np.testing.assert_array_equal(again.ordinary, found.ordinary)
    for ours, theirs in zip(again.attempts, found.attempts, strict=True):
        for name, value in vars(theirs).items():
            np.testing.assert_array_equal(getattr(ours, name), value)
    assert (again.gain, again.gain_error, again.best_epoch) == (found.gain, found.gain_error, found.best_epoch)
    assert (again.weights is None) != accepts
    if accepts:
        np.testing.assert_array_equal(again.weights.values, found.weights.values)
        assert again.weights.metadata == dict(found.weights.metadata)


def test_file_from_before_there_were_attempts_is_read(tmp_path):
    found = result(influence(3))
    arrays, metadata = load_artifact(found.save(tmp_path / "result.safetensors"), "result")
    kept = {name: values for name, values in arrays.items() if name != "ordinary" and "attempts" not in name}
    del metadata["attempts"]
    again = ParetoResult.load(save_artifact(tmp_path / "old.safetensors", "result", kept, metadata))
    assert again.attempts == ()
    assert np.isnan(again.ordinary).all()
    assert again.headline == found.headline
