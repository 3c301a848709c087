"""Loading never executes code, and any bytes give either a complete result or an ArtifactError."""

import ast
import json
import os
import stat
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import lightning_pareto
from lightning_pareto import ArtifactError, InfluenceMatrix, ParetoResult, ParetoVerdict, SampleWeights, check_pareto
from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.evaluation.result import Attempt
from lightning_pareto.integration.tuner.trial_result import TrialResult
from lightning_pareto.storage.artifacts import STALE_SECONDS, load_artifact, remove_temporary_files, save_artifact

PACKAGE = Path(lightning_pareto.__file__).parent
NAMES = ("cat", "dog", "cow")


def calls():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield path.name, ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


def test_loading_never_executes_code():
    """Only torch loads pickles, and always with ``weights_only=True``."""
    found = list(calls())
    reading = {"pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "yaml.load", "yaml.unsafe_load"}
    reading |= {
        "eval",
        "exec",
        "compile",
        "__import__",
        "joblib.load",
        "shelve.open",
        "torch.jit.load",
        "torch.hub.load",
    }
    assert not [call for call in found if call[1] in reading]
    loads = [call for call in found if call[1].endswith("torch.load") or call[1] == "load_from_checkpoint"]
    assert len(loads) >= 4
    assert all(options.get("weights_only") == "True" for _, _, options in loads)
    arrays = [call for call in found if call[1] in ("np.load", "numpy.load", "np.lib.format.read_array")]
    assert all(options.get("allow_pickle", "False") == "False" for _, _, options in arrays)


def influence():
    rng = np.random.default_rng(0)
    folds, support = rng.normal(size=(3, 12, 3)), np.full((3, 3), 4)
    options = {"support": support.sum(axis=0), "fold_scores": folds, "fold_support": support}
    return InfluenceMatrix(folds.mean(axis=0), np.arange(12) % 3, NAMES, predicted=np.arange(12) % 3, **options)


def result():
    return ParetoResult(
        category_names=NAMES,
        before=np.full(3, 0.5),
        after=np.full(3, 0.6),
        support=np.full(3, 10),
        p_values=np.full(3, 0.5),
        refused=np.array([0.25, 0.5, np.nan]),
        gain=0.1,
        gain_error=0.05,
        accepted=True,
        reason="a reason",
        weights=SampleWeights(np.ones(4), [0.1, 0.2, 0.3], NAMES),
        ckpt_path="best.ckpt",
        best_epoch=3,
        epochs_spent=9,
        trials=(),
        ordinary=np.array([0.5, 0.6, np.nan]),
        attempts=(Attempt("a try", *np.full((3, 3), 0.1), np.array([True, False, False]), 0.1, 0.02, -0.1),),
    )


KINDS = {
    "influence": (influence, InfluenceMatrix),
    "weights": (lambda: SampleWeights(np.arange(1.0, 5), [0.1, 0.2, 0.3], NAMES, {"a": [1, None]}), SampleWeights),
    "verdict": (lambda: check_pareto(influence()), ParetoVerdict),
    "result": (result, ParetoResult),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return {kind: make().save(folder / kind) for kind, (make, _) in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_saved_results_can_be_loaded(files, kind):
    assert repr(KINDS[kind][1].load(files[kind])) == repr(KINDS[kind][0]())


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_changed_bytes_never_give_a_different_result(files, tmp_path_factory, kind, data):
    """Bytes replaced, removed or inserted anywhere. Header and arrays have about as many bytes each."""
    whole = files[kind].read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    removed, added = data.draw(st.integers(0, 4)), data.draw(st.binary(max_size=4))
    changed = whole[:at] + added + whole[at + removed :]
    path = tmp_path_factory.getbasetemp() / f"changed {kind}"
    path.write_bytes(changed)
    try:
        found = KINDS[kind][1].load(path)
    except ArtifactError:
        return
    assert repr(found) == repr(KINDS[kind][0]())


@pytest.mark.parametrize(("old", "new"), [("cow", "cat"), ('"I64"', '"F64"'), ('"shape":[12,3]', '"shape":[3,12]')])
def test_changed_header_never_gives_a_different_result(files, tmp_path, old, new):
    """The new names, dtypes and shapes fit the bytes as well as the old ones did."""
    content = files["influence"].read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")
    header = content[8:size].replace(old.encode(), new.encode())
    assert header != content[8:size]
    path = tmp_path / "changed"
    path.write_bytes(content[:8] + header + content[size:])
    with pytest.raises(ArtifactError, match="has changed since it was written"):
        load_artifact(path, "influence")


plain_values = st.none() | st.booleans() | st.integers(-2, 2**70) | st.floats() | st.text(max_size=3)
json_values = plain_values | st.recursive(plain_values, lambda inner: st.lists(inner, max_size=3), max_leaves=4)
json_values |= st.dictionaries(st.text(max_size=3), json_values, max_size=3)
arrays = st.sampled_from(
    [
        np.ones(shape, kind)
        for shape in ((), (0,), (3,), (12,), (12, 3), (3, 3))
        for kind in (np.float64, np.int64, bool)
    ]
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data())
def test_inconsistent_parts_give_a_result_or_an_artifact_error(files, tmp_path_factory, kind, data):
    """Valid files in which one array and one metadata entry have been replaced."""
    parts, metadata = load_artifact(files[kind], kind)
    name, entry = (
        data.draw(st.sampled_from([*sorted(parts), "more"])),
        data.draw(st.sampled_from([*sorted(metadata), "x"])),
    )
    parts, metadata = {**parts, name: data.draw(arrays)}, {**metadata, entry: data.draw(json_values)}
    if data.draw(st.booleans()):
        del parts[name]
    path = save_artifact(tmp_path_factory.getbasetemp() / f"made {kind}", kind, parts, metadata)
    try:
        found = KINDS[kind][1].load(path)
    except ArtifactError:
        return
    assert str(found)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=64))
@example(b"\x02\0\0\0\0\0\0\0{}")
def test_random_bytes_give_an_artifact_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    with pytest.raises(ArtifactError):
        InfluenceMatrix.load(path)


@pytest.mark.parametrize("size", [2**30, 2**24 + 1])
def test_oversized_header_is_rejected_quickly(tmp_path, size):
    """The header is neither read nor allocated. The file is sparse and as large as its header claims."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.write(size.to_bytes(8, "little"))
        file.truncate(8 + size)
    begin = time.process_time()
    with pytest.raises(ArtifactError, match=f"claims {size} bytes"):
        InfluenceMatrix.load(path)
    assert time.process_time() - begin < 0.1


@pytest.mark.parametrize("name", ["/etc/passwd", "../../weights.ckpt", "..", ".", ""])
def test_checkpoint_paths_in_a_file_are_not_followed(tmp_path, name):
    outcome = Outcome(np.zeros(2, int), np.ones(2, bool), np.ones(2), ("a",))
    TrialResult("trial", outcome, 1, 1, np.zeros(1), tmp_path / "best.ckpt").save(tmp_path, "key")
    assert TrialResult.load(tmp_path, "key").checkpoint == tmp_path / "best.ckpt"
    assert TrialResult.load(tmp_path, "another key") is None
    parts, metadata = load_artifact(tmp_path / "trial.safetensors", "trial")
    save_artifact(tmp_path / "trial.safetensors", "trial", parts, {**metadata, "checkpoints": [name, None]})
    with pytest.raises(ArtifactError, match="is not the name of a file"):
        TrialResult.load(tmp_path, "key")


def test_checkpoint_path_of_a_result_is_only_printed(tmp_path):
    path = result().save(tmp_path / "result")
    parts, metadata = load_artifact(path, "result")
    save_artifact(path, "result", parts, {**metadata, "ckpt_path": "/nowhere/\x1b[2J.ckpt"})
    assert str(ParetoResult.load(path)).endswith("Model: /nowhere/?[2J.ckpt")


def test_metadata_that_can_be_written_can_be_read(tmp_path):
    """Quotes grow each time they are escaped, and metadata are escaped twice."""
    about = {"text": '"' * (2**22 - 100)}
    path = save_artifact(tmp_path / "large", "kind", {}, about)
    assert load_artifact(path, "kind") == ({}, about)
    with pytest.raises(ValueError, match="metadata must have at most 8388608 bytes, found 16777"):
        save_artifact(path, "kind", {}, {"text": '"' * 2**23})
    assert json.loads(json.dumps(about)) == load_artifact(path, "kind")[1]


@pytest.mark.parametrize("kind", [">i8", ">i4", ">f8", "<f4"])
def test_arrays_in_any_byte_order_and_with_gaps_can_be_read(tmp_path, kind):
    array = np.arange(12).astype(kind).reshape(3, 4)[:, ::-2]
    save_artifact(tmp_path / "a", "result", {"array": array}, {})
    np.testing.assert_array_equal(load_artifact(tmp_path / "a", "result")[0]["array"], array)


def test_leftovers_of_a_killed_writer_are_ignored_and_removed(tmp_path):
    path = SampleWeights([1.0]).save(tmp_path / "weights")
    old, new, other = (tmp_path / name for name in (".weights.old1", ".weights.new1", ".influence.old1"))
    for each in (old, new, other):
        each.write_bytes(path.read_bytes()[:20])
    os.utime(old, (0, time.time() - STALE_SECONDS - 1))
    assert SampleWeights.load(path).values.tolist() == [1.0]
    SampleWeights([2.0]).save(path)
    assert sorted(tmp_path.iterdir()) == sorted([path, new, other]), (
        "another process may still be writing the recent one"
    )
    remove_temporary_files(tmp_path, "*")
    assert sorted(tmp_path.iterdir()) == [path]


def test_temporary_file_is_next_to_its_target(tmp_path, monkeypatch):
    """A file on another file system could not replace the target."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    assert SampleWeights([1.0]).save(tmp_path / "weights").is_file()


def test_files_get_the_usual_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        path = save_artifact(tmp_path / "a.safetensors", "weights", {"a": np.zeros(2)}, {})
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o600)
        save_artifact(path, "weights", {"a": np.ones(2)}, {})
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, "the user's permissions are kept"
    finally:
        os.umask(before)
