"""The pages of documentation say what the code does."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERDICT = (ROOT / "examples" / "reading_a_verdict.md").read_text()
PAGES = [ROOT / "README.md", *(ROOT / "examples").rglob("*.md")]


def words(text):
    """The words of a printed verdict, without its numbers, the names that depend on them, and line breaks."""
    text = re.sub(r"  (?:east|north|west|south): .*\n", "", text)
    text = re.sub(r"worst category \(\w+\)", "worst category", text)
    return re.sub(r"[-+]?\d[\d.e%-]*", "#", text).split()


def test_verdicts_on_the_page_are_those_that_its_code_prints(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", VERDICT, re.DOTALL)
    noisy, clean = re.findall(r"```text\n(.*?)```", VERDICT, re.DOTALL)
    space = {}
    exec(code, space)
    assert words(capsys.readouterr().out) == words(noisy)
    assert words(str(space["clean"])) == words(clean)
    assert noisy.startswith("Pareto improvement possible: YES")
    assert clean.startswith("Pareto improvement possible: NOT PROVEN")


def test_page_explains_every_kind_of_line():
    wording = (ROOT / "lightning_pareto" / "pareto" / "wording.py").read_text()
    for phrase in ("UNDERFITTED", "does not gain held out", "too few samples", "the others must hold their floors"):
        assert phrase in wording
        assert phrase in VERDICT


def test_files_named_on_a_page_exist():
    for page in PAGES:
        text = page.read_text()
        for name in re.findall(r"`((?:\.\./|examples/|benchmarks/)?[\w/]+\.(?:py|md|yaml|ipynb))`", text):
            places = (ROOT / name, page.parent / name, page.parent / "benchmarks" / name)
            assert any(place.is_file() for place in places), f"{page.name} names {name}"
        for link in re.findall(r"\]\((?!https?://)([^)#]+)\)", text):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
