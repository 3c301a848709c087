"""The report as a document: what it contains, and that it runs and loads nothing of others."""

import base64
import hashlib
import io
import json
import re
import struct
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lightning_pareto import (
    ArtifactError,
    InfluenceMatrix,
    SamplePreviews,
    check_pareto,
    render_report,
    reweight,
    suspected_samples,
    write_report,
)
from lightning_pareto.report.html.charts import inline_svg
from lightning_pareto.report.previews import png_data
from lightning_pareto.report.shown_previews import preview_html
from tests.report._results import everything, influence, outcomes, result
from tests.report.html._page import parse

EVIL = '</script><script>alert(1)</script><img src=x onerror=alert(2)> " onclick="alert(3)'
NAMES = ["cat", "dog", "cow"]


def previews(matrix, text=None):
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    return SamplePreviews({int(i): text or picture for i in suspected_samples(matrix, 48).index}, matrix.category_names)


@pytest.fixture(scope="module")
def page():
    matrix, verdict, weights, found = everything(3, absent=(1,), names=NAMES)
    today, after = outcomes(3, absent=(1,), names=NAMES)
    results = {"influence": matrix, "weights": weights, "result": found, "outcome": today, "after_step": after}
    text = render_report(verdict, **results, previews=previews(matrix), title="a run")
    return parse(text), matrix, verdict, found


def rows_of(table):
    return [[cell.text for cell in row.children if not isinstance(cell, str)] for row in table.one("tbody").all("tr")]


def column(table, head):
    heads = [th.text for th in table.one("thead").all("th")]
    return {row[0]: row[heads.index(head)] for row in rows_of(table)}


def test_report_begins_with_the_verdict_and_its_evidence(page):
    tree, _, verdict, found = page
    assert tree.one("title").text == "Pareto report: a run"
    assert verdict.answer == "yes"
    assert tree.one("h1").text.startswith("The model can still improve on every class, to first order.")
    facts = {
        div.one("dt").text: div.one("dd", class_="value").text for div in tree.one("dl", class_="facts").all("div")
    }
    assert facts["Headroom, in sample"] == f"{verdict.headroom:.3f}"
    assert facts["Least held-out gain"] == f"{np.nanmin(verdict.held_out_gain):+.3f}"
    assert facts["p-value"] == (f"{verdict.p_value:.2g}" if verdict.p_value >= 1e-4 else "< 0.0001")
    lead = [p.text for p in tree.all("p", class_="lead")]
    assert lead[0].startswith("Other weights of the training samples lower the loss")
    assert f"{np.nanmean(found.after):.1%}" in lead[1]
    meaning = next(
        dd.text
        for dd in tree.all("dd")
        if dd.text.endswith("A proof needs an interval above zero and a gain above 0.01.")
    )
    assert "90% interval: {:+.3f} to {:+.3f}".format(*verdict.worst_interval) in meaning


def test_tables_have_a_row_for_each_class(page):
    tree, _, verdict, found = page
    accuracy, evidence, _ = tree.all("table", class_="sortable")
    today, after = outcomes(3, absent=(1,), names=NAMES)
    assert [row[0] for row in rows_of(evidence)] == NAMES
    assert [row[0] for row in rows_of(accuracy)] == [NAMES[k] for k in np.argsort(today.accuracy)], "the lowest first"
    assert column(evidence, "Held-out gain")["cow"] == f"{verdict.held_out_gain[2]:+.3f}".replace("-", "−")
    assert column(evidence, "Held-out gain")["dog"] == column(evidence, "Price")["dog"] == "–"
    assert column(evidence, "Samples") == column(accuracy, "Samples") == {"cat": "60", "dog": "0", "cow": "60"}
    assert column(accuracy, "After")["cat"] == f"{100 * found.after[0]:.1f}"
    assert column(accuracy, "Accuracy, %")["cat"] == f"{100 * today.accuracy[0]:.1f}"
    assert column(accuracy, "Mostly mistaken for")["cat"] == "dog ({0} of {0} errors)".format(
        (~today.correct[today.category == 0]).sum()
    )
    change = 100 * (after.accuracy - today.accuracy)
    assert column(accuracy, "One step, points") == {"cat": f"{change[0]:+.1f}", "dog": "–", "cow": f"{change[2]:+.1f}"}
    keys = {td["data-key"] for td in evidence.all("td")}
    assert str(float(verdict.prices[0])) in keys


def test_story_comes_in_the_order_of_the_readers_questions(page):
    tree, matrix, verdict, _ = page
    today, after = outcomes(3, absent=(1,), names=NAMES)
    heads = [
        "Accuracy per class",
        "What was measured",
        "Samples to look at",
        "Evidence",
        "When not to trust this",
    ]
    shown = [h2.text for h2 in tree.all("h2")]
    assert [head for head in shown if head in heads] == heads
    attempts = next(table for table in tree.all("table") if "class" not in table.attributes)
    assert [row[1] for row in rows_of(attempts)] == ["steps (returned)", "a fit with weights (budget 0.2)"]
    assert [row[-1] for row in rows_of(attempts)] == ["0", "1"]
    alone = parse(render_report(verdict, influence=matrix, outcome=today, after_step=after))
    assert "one small second-order step on the weighted training loss" in alone.text
    assert "What one small step changes" in [h2.text for h2 in alone.all("h2")]
    assert "What to do next" in [h2.text for h2 in alone.all("h2")], "after a search it is known"
    assert any("weights = reweight(influence)" in pre.text for pre in alone.all("pre"))
    assert "What to do next" not in shown


def test_headings_are_buttons_and_state_their_order(page):
    tree, *_ = page
    for table in tree.all("table", class_="sortable"):
        for head in table.one("thead").all("th"):
            assert head["aria-sort"] == "none"
            assert head["scope"] == "col"
            assert head.one("button")["type"] == "button"


def test_suspects_are_shown_with_the_names_of_their_labels(page):
    tree, matrix, *_ = page
    cards = [li for ul in tree.all("ul", class_="suspects") for li in ul.all("li")]
    table = suspected_samples(matrix, 48)
    assert len(cards) == (table.quality < 0).sum() > 12
    for card, index, given, predicted in zip(cards, table.index, table.given, table.predicted, strict=False):
        words = card.text.split()
        assert words[words.index("given") + 1] == NAMES[given]
        assert words[words.index("predicted") + 1] == NAMES[predicted]
        assert f"#{index} · harms {(matrix.scores[index] < 0).sum()} of 3 classes" in card.text
        assert card.one("img")["src"].startswith("data:image/png;base64,")
        assert card.one("img")["alt"] == f"Sample {index}"
    assert ", ".join(map(str, table.index[: len(cards)])) == tree.one("p", class_="indices").text


def test_only_harmful_samples_are_suspects():
    scores = np.array([[1.0, 1.0], [-3.0, 1.0], [-1.0, -1.0], [0.5, 0.0]])
    matrix = InfluenceMatrix(scores, [0, 1, 0, 1])
    tree = parse(render_report(check_pareto(matrix), influence=matrix))
    assert [p.text for p in tree.all("p", class_="small")] == ["#1 · harms 1 of 2 classes", "#2 · harms 2 of 2 classes"]


def test_all_figures_are_present_and_described(page):
    tree, *_ = page
    figures = list(tree.all("svg"))
    assert len(figures) == 7
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 20 for svg in figures)
    ids = [element["id"] for element in tree.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    for element in tree.all():
        for name, value in element.attributes.items():
            for target in re.findall(r"url\(#([^)]*)\)", value or "") + re.findall(r"^#(.+)", value or ""):
                assert target in ids, f"{element.tag} {name}={value}"


def test_report_says_how_it_was_computed_and_when_not_to_trust_it(page):
    tree, matrix, _, found = page
    how = {div.one("dt").text: div.one("dd").text for div in tree.one("dl", class_="how").all("div")}
    assert how["Curvature"] == "ekfac"
    assert how["Damping"] == "0.1"
    assert how["Folds"] == "4"
    assert how["Training samples"] == str(len(matrix.labels))
    assert how["Model returned"] == found.ckpt_path
    cautions = [li.text for li in tree.one("ul", class_="cautions").all("li")]
    assert any("Classes without validation samples are not tested: dog." in caution for caution in cautions)
    assert any("first-order statement about one model" in caution for caution in cautions)
    assert any("Rare but correct samples can harm" in caution for caution in cautions)


def test_report_loads_nothing(page):
    tree, *_ = page
    for element in tree.all():
        for name in ("src", "href", "xlink:href", "action", "poster", "srcset", "data"):
            value = element.attributes.get(name, "")
            assert value.startswith(("data:", "#")) or not value, (element.tag, name, value)
        assert not any(name.startswith("on") for name in element.attributes)
        if element.tag != "svg":
            assert not re.search(r"https?:|//", element.attributes.get("style") or "")
    style = "".join(style.text for style in tree.all("style"))
    assert "url(" not in style
    assert "@import" not in style


def test_only_its_own_script_may_run(page):
    tree, *_ = page
    policy = tree.one("meta", http_equiv="Content-Security-Policy")["content"]
    data, script = tree.all("script")
    assert data["type"] == "application/json"
    digest = base64.b64encode(hashlib.sha256("".join(script.children).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1]


def test_names_and_texts_are_escaped_everywhere():
    matrix, verdict, weights, found = everything(3, names=[EVIL, "dog", "{{ 7 * 7 }}"])
    text = render_report(
        verdict, influence=matrix, weights=weights, result=found, previews=previews(matrix, EVIL), title=EVIL
    )
    tree = parse(text)
    scripts = list(tree.all("script"))
    assert len(scripts) == 2
    assert json.loads("".join(scripts[0].children))["category_names"] == [EVIL, "dog", "{{ 7 * 7 }}"]
    assert "alert(" not in "".join(scripts[1].children)
    assert not [element for element in tree.all() if "onclick" in element.attributes or "onerror" in element.attributes]
    assert all(img["src"].startswith("data:") for img in tree.all("img"))
    assert EVIL[:70] in tree.one("title").text
    assert next(next(tree.all("tbody")).all("th"))["data-key"].startswith(EVIL[:50])
    assert {quote.text for quote in tree.all("blockquote")} == {EVIL}
    assert any("</script>" in label.text for svg in tree.all("svg") for label in svg.all("text"))
    assert "49" not in {cell.text for cell in tree.all("th")}
    assert "<script>alert" not in text


@pytest.mark.parametrize("k", [2, 100])
def test_few_and_many_classes_fit(k):
    matrix, verdict, weights, found = everything(k, 20 * k)
    tree = parse(render_report(verdict, influence=matrix, weights=weights, result=found))
    assert len(rows_of(next(tree.all("table")))) == k
    tall = list(tree.all("div", class_="scroll tall"))
    assert len(tall) == (4 if k == 100 else 0)


def test_not_proven_says_what_each_class_lacks():
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(4, 200, 2))
    labels, support = rng.integers(0, 2, 200), np.full((4, 2), 20)
    matrix = InfluenceMatrix(parts.mean(axis=0), labels, ["cat", "dog"], fold_scores=parts, fold_support=support)
    verdict = check_pareto(matrix)
    assert verdict.answer == "not proven"
    tree = parse(render_report(verdict))
    assert tree.one("p", class_="badge not-proven").text == "not proven"
    assert tree.one("h1").text.startswith("It is not shown that the model can still improve on every class")
    lacking = [li.text for li in tree.one("ul", class_="lacking").all("li")]
    needed = [name for name, n in zip(verdict.category_names, verdict.samples_needed, strict=True) if n > 80]
    assert {line.split(":")[0].strip() for line in lacking} == set(needed) != set()
    cautions = " ".join(li.text for li in tree.one("ul", class_="cautions").all("li"))
    assert "Not proven does not mean no" in cautions
    assert "Do not use weights if nothing is proven. On clean data such weights did harm." in cautions


def test_underfitted_model_should_train_longer():
    verdict = check_pareto(influence(3, drift=0.2))
    assert verdict.improvable
    assert verdict.underfitted
    assert verdict.answer == "underfitted"
    tree = parse(render_report(verdict))
    assert tree.one("h1").text.startswith("The model is not trained to its end.")
    assert tree.one("p", class_="lead").text.endswith("Train longer first.")
    assert tree.one("p", class_="badge underfitted")


def test_without_folds_nothing_is_proven():
    tree = parse(render_report(check_pareto(influence(3).of_folds([0, 1]))))
    assert tree.one("h1").text.startswith("It is not shown that the model can still improve")
    assert "was not tested, for lack of folds" in tree.one("p", class_="lead").text
    assert "p-value" not in tree.one("dl", class_="facts").text


def test_refused_result_alone_makes_a_report():
    tree = parse(render_report(result=result(influence(), accepted=False)))
    assert tree.one("h1").text.startswith("No better model was accepted. The mean accuracy")
    assert {th.text for th in next(tree.all("thead")).all("th")} >= {
        "Before",
        "After",
        "Change",
        "Refused",
        "P of a fall",
    }
    assert not list(tree.all("p", class_="badge"))


def test_notable_falls_are_named_with_their_size():
    long = "a dog with a name of 24 "
    found = result(influence(names=["cat", long, "cow"]))
    assert "rarely chance" not in render_report(result=replace(found, p_values=np.array([0.06, 0.9, 1.0])))
    tree = parse(render_report(result=replace(found, p_values=np.array([0.9, 0.04, 1.0]))))
    change = f"{100 * (found.after[1] - found.before[1]):+.1f}"
    text = f"rarely chance: {long} ({change} points). Among many classes it can be."
    assert " ".join(text.split()) in tree.one("ul", class_="cautions").text
    many = replace(result(influence(9)), p_values=np.zeros(9))
    assert (
        " points) and 3 more. Among many classes" in parse(render_report(result=many)).one("ul", class_="cautions").text
    )


def test_names_in_any_script_are_shown():
    names = ["猫", "собака", "קו\u202e", "$x$\x00\ud800"]
    matrix, verdict, weights, found = everything(4, names=names)
    tree = parse(render_report(verdict, influence=matrix, weights=weights, result=found))
    assert [row[0] for row in rows_of(next(tree.all("table")))] == ["猫", "собака", "קו?", "$x$??"]
    assert {"猫", "собака", "קו?", "$x$??"} <= {label.text for label in tree.all("text")}


def test_labels_are_numbers_if_the_categories_are_not_the_classes():
    matrix = influence(3, names=NAMES)
    own = InfluenceMatrix(matrix.scores, matrix.labels, NAMES, metadata={"categories": "own"})
    tree = parse(render_report(check_pareto(own), influence=own))
    given = {p.one("strong").text for p in tree.all("p", class_="labels")}
    assert given <= {"0", "1", "2"}
    named = SamplePreviews({}, ("x", "y", "z"))
    tree = parse(render_report(check_pareto(own), influence=own, previews=named))
    assert {p.one("strong").text for p in tree.all("p", class_="labels")} <= {"x", "y", "z"}


@pytest.mark.parametrize("item", [EVIL, np.arange(64.0).reshape(1, 8, 8)], ids=["text", "picture"])
def test_report_and_notebook_show_the_same_previews(item):
    matrix, verdict, _, _ = everything(3)
    table = suspected_samples(matrix, dataset=[(item, 0)] * len(matrix.labels))
    page = render_report(verdict, influence=matrix, previews=SamplePreviews(table.previews))
    notebook = table._repr_html_()
    assert len(table.previews) == 20
    for index, preview in table.previews.items():
        shown = preview_html(preview, f"Sample {index}")
        assert shown in page
        assert shown in notebook


def test_report_needs_a_verdict_or_a_result():
    with pytest.raises(ValueError, match="expected a verdict, a result or both, found neither"):
        render_report(influence=influence())
    with pytest.raises(ValueError, match="expected results of one run, found different categories"):
        render_report(check_pareto(influence(3)), result=result(influence(4)))


def test_missing_jinja_names_the_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning_pareto\[report\]'"):
        render_report(result=result(influence()))


def test_picture_is_a_complete_png():
    for picture in (np.arange(12, dtype=np.uint8).reshape(3, 4), np.arange(36, dtype=np.uint8).reshape(3, 4, 3)):
        file = base64.b64decode(png_data(picture).split(",")[1])
        assert file.startswith(b"\x89PNG\r\n\x1a\n")
        assert struct.unpack(">II", file[16:24]) == (4, 3)
        size = struct.unpack(">I", file[33:37])[0]
        assert zlib.crc32(file[37 : 41 + size]) == struct.unpack(">I", file[41 + size : 45 + size])[0]
        assert file.endswith(b"IEND\xaeB`\x82")
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(file))), picture)


def test_figures_have_the_text_colour_of_the_page():
    svg = inline_svg(lambda ax: ax.plot([1, 2], label="a"), "key", 'so "described" <b>', 2)
    tree = parse(svg)
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert tree.one("svg")["aria-label"] == 'so "described" <b>'
    assert "width" not in tree.one("svg").attributes
    assert not list(tree.all("style"))
    assert not list(tree.all("metadata"))


class TestOnDisk:
    def fill(self, folder, k=3, names=None):
        matrix, verdict, weights, found = everything(k, names=names)
        matrix.save(folder / "influence.safetensors")
        verdict.save(folder / "verdict.safetensors")
        return matrix, weights, found

    def test_report_is_written_to_the_folder_of_the_run(self, tmp_path):
        self.fill(tmp_path / "pareto", names=NAMES)
        path = write_report(tmp_path)
        assert path == tmp_path / "report.html"
        tree = parse(path.read_text("utf-8"))
        assert tree.one("title").text == "Pareto report: " + "/".join(tmp_path.parts[-3:])
        assert [row[0] for row in rows_of(next(tree.all("table")))] == NAMES
        assert sorted(file.name for file in tmp_path.iterdir()) == ["pareto", "report.html"]
        assert write_report(tmp_path / "pareto" / "verdict.safetensors") == tmp_path / "pareto" / "report.html"

    def test_report_contains_all_results_of_the_folder(self, tmp_path):
        matrix, _, found = self.fill(tmp_path)
        reweight(matrix, budget=0.1).save(tmp_path / "weights.safetensors")
        found.save(tmp_path / "result.safetensors")
        previews(matrix, "a text of mine").save(tmp_path / "samples.safetensors")
        tree = parse(write_report(str(tmp_path), str(tmp_path / "new" / "page.html")).read_text("utf-8"))
        assert {quote.text for quote in tree.all("blockquote")} == {"a text of mine"}
        assert len(list(tree.all("svg"))) == 7
        assert "0.1" in tree.one("dl", class_="how").text

    def test_folder_of_a_search_is_read(self, tmp_path):
        matrix, verdict, _, found = everything(3)
        found.save(tmp_path / "result.safetensors")
        verdict.save(tmp_path / "verdict.safetensors")
        matrix.save(tmp_path / "finished" / "influence_ab" / "influence.safetensors")
        previews(matrix).save(tmp_path / "finished" / "influence_ab" / "samples.safetensors")
        tree = parse(write_report(tmp_path).read_text("utf-8"))
        assert len(list(tree.all("img"))) > 12
        assert len(list(tree.all("svg"))) == 7

    def test_newest_of_several_runs_is_read(self, tmp_path):
        import os

        for number in (1, 2, 3):
            folder = tmp_path / "lightning_logs" / f"version_{number}" / "pareto"
            self.fill(folder, number + 1)
            for path in folder.iterdir():
                os.utime(path, (1000 if number == 3 else 2000 + number,) * 2)
        tree = parse(write_report(tmp_path).read_text("utf-8"))
        assert len(rows_of(next(tree.all("table")))) == 3

    def test_search_with_other_categories_is_left_out(self, tmp_path):
        self.fill(tmp_path / "pareto")
        result(influence(4)).save(tmp_path / "pareto_tuner" / "result.safetensors")
        tree = parse(write_report(tmp_path).read_text("utf-8"))
        assert "Before" not in " ".join(head.text for head in tree.all("thead"))

    def test_folder_without_results_is_refused(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no results in .* neither verdict\.safetensors"):
            write_report(tmp_path)
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            write_report(tmp_path / "nowhere")

    def test_damaged_files_and_results_of_another_run_are_refused(self, tmp_path):
        self.fill(tmp_path)
        result(influence(4)).save(tmp_path / "result.safetensors")
        with pytest.raises(ArtifactError, match="expected results of one run, found different categories"):
            write_report(tmp_path)
        (tmp_path / "verdict.safetensors").write_bytes(b"half")
        with pytest.raises(ArtifactError, match="not a valid safetensors file"):
            write_report(tmp_path)
        assert not (tmp_path / "report.html").exists()
