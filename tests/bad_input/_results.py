"""Wrong influence matrices, weights and options, and files that are damaged or of another kind."""

import json

import numpy as np
import torch
from safetensors.numpy import save
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, TensorDataset

from lightning_pareto import (
    ArtifactError,
    ClasswiseComparison,
    InfeasibleError,
    InfluenceMatrix,
    ParetoSampler,
    ParetoVerdict,
    SampleWeights,
    WeightedDataset,
    average_influence,
    check_pareto,
    reweight,
    reweighted_dataloader,
    suspected_samples,
)
from lightning_pareto.data.labels import fingerprint_of_labels
from lightning_pareto.storage import artifacts
from tests.bad_input._case import Case

NAN, INF = float("nan"), float("inf")
NAMES = ["cat", "dog", "cow"]
SCORES = np.random.default_rng(0).normal(size=(60, 3))
MATRIX = InfluenceMatrix(SCORES, np.arange(60) % 3, NAMES)
GAP = InfluenceMatrix(np.where([True, False, True], SCORES, NAN), np.arange(60) % 3, NAMES)
TEN = TensorDataset(torch.arange(10))
LABELS = torch.arange(10) % 3
OTHERS = TensorDataset(torch.arange(10), LABELS.flip(0))
MADE = {"fingerprints": {"labels": fingerprint_of_labels(TensorDataset(torch.arange(10), LABELS))}}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


class Buckets(BatchSampler):
    pass


def matrix(*arguments, **options):
    return lambda _folder: InfluenceMatrix(*arguments, **options)


def weights(*arguments, **options):
    return lambda _folder: SampleWeights(*arguments, **options)


def verdict(influence=MATRIX, **options):
    return lambda _folder: check_pareto(influence, **options)


def solve(influence=MATRIX, **options):
    return lambda _folder: reweight(influence, **options)


def into(loader, values=None):
    values = np.ones(10) if values is None else values
    return lambda _folder: reweighted_dataloader(loader, values)


def named(**changes):
    return InfluenceMatrix(**{"scores": SCORES, "labels": np.arange(60) % 3, "category_names": NAMES, **changes})


TWO = [[1.0], [2.0]]
MATRICES = [
    Case("scores in one dimension", matrix([1.0, 2.0], [0, 1]), ValueError, r"found shape \(2,\)", r"must be \(N, K\)"),
    Case("no scores", matrix(np.ones((0, 3)), []), ValueError, r"shape \(0, 3\)", "N, K ≥ 1"),
    Case("an infinite score", matrix([[1.0], [INF]], [0, 1]), ValueError, r"scores\[1, 0\] is inf", "must be finite"),
    Case("a NaN score", matrix([[1.0], [NAN]], [0, 1]), ValueError, r"scores\[1, 0\] is nan", "must be finite"),
    Case("a score too large for float32", matrix([[1.0], [1e300]], [0, 1]), ValueError, r"scores\[1, 0\] is inf", "finite"),
    Case("complex scores", matrix(np.ones((2, 1), complex), [0, 1]), ValueError, "found complex128", "real numbers"),
    Case("scores as text", matrix([["a"], ["b"]], [0, 1]), ValueError, "found <U1", "real numbers"),
    Case("ragged scores", matrix([[1.0, 2.0], [3.0]], [0, 1]), ValueError, "inhomogeneous", "an array of numbers"),
    Case("too few training labels", matrix(TWO, [0]), ValueError, r"found \(1,\)", r"must have shape \(2,\)"),
    Case("floating training labels", matrix(TWO, np.array([0.0, 1.0])), ValueError, "found float64", "astype"),
    Case("floating label tensors", matrix(TWO, torch.tensor([0.0, 1.0])), ValueError, "found float32", "astype"),
    Case("names for other columns", matrix(TWO, [0, 0], ["a", "b"]), ValueError, r"found \('a', 'b'\)", "expected 1 different"),
    Case("one name twice", matrix([[1.0, 1.0]], [0], ["a", "a"]), ValueError, r"found \('a', 'a'\)", "expected 2 different"),
    Case("a text for names", matrix([[1.0, 1.0]], [0], "ab"), ValueError, "found", "expected 2 different category names"),
    Case("support for other columns", matrix(TWO, [0, 0], (), [1, 2]), ValueError, r"found \(2,\)", r"shape \(1,\)"),
    Case("negative support", matrix(TWO, [0, 0], (), [-1]), ValueError, "found -1", "counts validation samples"),
    Case("half a sample", matrix(TWO, [0, 0], (), [1.5]), ValueError, "support must be integers", "astype"),
    Case("folds without support", matrix(TWO, [0, 0], (), None, np.ones((1, 2, 1))), ValueError, "belong together", "both or neither"),
    Case("folds of half a sample", matrix(TWO, [0, 0], (), None, np.ones((1, 2, 1)), [[0.5]]), ValueError, "fold_support must be integers", "astype"),
    Case("folds of negative support", matrix(TWO, [0, 0], (), None, np.ones((1, 2, 1)), [[-2]]), ValueError, "found -2", "cannot be negative"),
    Case("NaN in a fold with samples", matrix(TWO, [0, 0], ["a"], None, [[[1.0], [NAN]]], [[3]]), ValueError, r"fold_scores\[0\] of category a", "3 validation"),
    Case("folds of a matrix without", lambda _: MATRIX.of_folds([0]), ValueError, "has no folds", "folds=8"),
    Case("an average of one matrix", lambda _: average_influence(MATRIX), TypeError, "takes a list", r"\[first, second\]"),
    Case("an average of nothing", lambda _: average_influence([]), ValueError, "at least one", "matrix to average"),
    Case("an average of arrays", lambda _: average_influence([SCORES]), TypeError, "found ndarray", "estimate_influence"),
    Case("an average of other data", lambda _: average_influence([MATRIX, named(labels=np.zeros(60, int))]), ValueError, "other training labels", "same training and validation"),
    Case("suspects of another dataset", lambda _: suspected_samples(MATRIX, dataset=["a"] * 59), ValueError, "dataset of 60 samples, found a list of length 59", "train_dataloader.dataset"),
    Case("a preview of nothing", lambda _: suspected_samples(MATRIX, preview=str), ValueError, "preview= needs the dataset", "dataset=…"),
    Case("suspects of an array", lambda _: suspected_samples(SCORES), TypeError, "found ndarray", "callback.influence"),
    Case("metadata that are no JSON", lambda folder: named(metadata={"x": object()}).save(folder / "x"), TypeError, "object is not JSON", "must be JSON-serialisable"),
    Case("metadata without bound", lambda folder: named(metadata={"x": "a" * 2**24}).save(folder / "x"), ValueError, "must have at most 8388608 bytes, found 167", "Store them elsewhere"),
]  # fmt: skip
WEIGHTS = [
    Case("a negative weight", weights([1.0, -1.0]), ValueError, "found -1.0 at index 1", "finite and ≥ 0"),
    Case("a weight of NaN", weights([NAN]), ValueError, "found nan at index 0", "finite and ≥ 0"),
    Case("an infinite weight", weights([1.0, INF]), ValueError, "found inf at index 1", "must be finite"),
    Case("all weights zero", weights([0.0, 0.0]), ValueError, "must not all be zero", "nothing to train on"),
    Case("weights in a table", weights([[1.0]]), ValueError, r"shape \(1, 1\)", r"vector \(N,\)"),
    Case("no weights", weights([]), ValueError, r"shape \(0,\)", "vector"),
    Case("one weight for all", weights(1.0), ValueError, r"shape \(\)", "vector"),
    Case("complex weights", weights(np.ones(3, complex)), ValueError, "found complex128", "must be real numbers"),
    Case("weights as text", weights("abc"), ValueError, "found str", r"reweight\(influence\)"),
    Case("a verdict for weights", weights(check_pareto(MATRIX)), ValueError, "found ParetoVerdict", "reweight"),
    Case("weights beyond any epoch", weights([1e300, 1e300]), ValueError, r"at most 2\*\*52, found 2e", "Scale them to mean 1"),
    Case("gains for other names", weights([1.0], [0.1, 0.2], ("cat",)), ValueError, "must have 2 entries, one per predicted gain", r"found \['cat'\]"),
    Case("names for other gains", weights([1.0], [0.1], ("cat", "dog")), ValueError, "must have 1 entries, one per predicted gain", r"found \['cat', 'dog'\]"),
    Case("gains in a table", weights([1.0], [[0.1]], ("cat",)), ValueError, r"shape \(1, 1\)", r"vector \(K,\)"),
    Case("a text for names of gains", weights([1.0], [0.1], "cat"), ValueError, "single string 'cat'", r"Use \['cat'\]"),
    Case("weights of another length", into(DataLoader(TEN), np.ones(9)), ValueError, "expected a training dataset of 9 samples, one per weight, found 10", "Use the dataset that influence"),
    Case("weights of another length in the loss", lambda _: WeightedDataset(TEN, np.ones(9)), ValueError, "expected a training dataset of 9 samples", "Use the dataset that influence"),
    Case("weights made for other labels", into(DataLoader(OTHERS), SampleWeights(np.ones(10), metadata=MADE)), ValueError, "another training dataset", "Seed random splits.*compute influence again"),
    Case("weights in the loss made for other labels", lambda _: WeightedDataset(OTHERS, SampleWeights(np.ones(10), metadata=MADE)), ValueError, "another training dataset", r"SampleWeights\(weights.values\)"),
    Case("weights for a stream", into(DataLoader(Stream())), TypeError, "found Stream, which has no index or no length", r"list\(dataset\)"),
    Case("weights for two loaders", into([DataLoader(TEN)]), TypeError, "found list", "choose one with train_dataloader="),
    Case("weights without batches", into(DataLoader(TEN, batch_size=None)), TypeError, "disabled", "Set a batch_size"),
    Case("weights for a batch sampler", into(DataLoader(TEN, batch_sampler=Buckets(RandomSampler(TEN), 2, False))), TypeError, "has a Buckets, which would ignore the weights", r"build your batch sampler on ParetoSampler\(weights\)"),
    Case("an influence matrix for weights", into(DataLoader(TEN), MATRIX), TypeError, "found an InfluenceMatrix", r"reweight\(influence\)"),
    Case("a path that is not there", into(DataLoader(TEN), "nowhere.safetensors"), FileNotFoundError, "no weights artifact at", "nowhere"),
    Case("a negative weight to a sampler", lambda _: ParetoSampler([1.0, -1.0]), ValueError, "found -1.0 at index 1", "≥ 0"),
    Case("a negative seed", lambda _: ParetoSampler([1.0], seed=-1), ValueError, "found -1", "the same on all"),
    Case("half a seed", lambda _: ParetoSampler([1.0], seed=0.5), ValueError, "found 0.5", "must be an integer"),
    Case("a rank too large", lambda _: ParetoSampler([1.0], num_replicas=2, rank=2), ValueError, "Invalid rank 2", r"interval \[0, 1\]"),
]  # fmt: skip
OPTIONS = [
    Case("an array for a matrix", verdict(SCORES), TypeError, "found ndarray", "InfluenceMatrix.load"),
    Case("a verdict without budget", verdict(budget=0.0), ValueError, "found 0.0", r"in \(0, 1\]"),
    Case("a budget above one", verdict(budget=1.5), ValueError, "found 1.5", "must be a share of the training mass"),
    Case("a budget of NaN", verdict(budget=NAN), ValueError, "found nan", r"in \(0, 1\]"),
    Case("a budget as text", verdict(budget="0.2"), ValueError, "found '0.2'", "budget must be a share"),
    Case("a list of budgets", solve(budget=[0.2]), ValueError, r"found \[0.2\]", "budget must be a share"),
    Case("level 0", verdict(level=0.0), ValueError, "found 0.0", r"level must be a significance level in \(0, 1\)"),
    Case("level as text", verdict(level="5%"), ValueError, "found '5%'", "level must be a significance level"),
    Case("a negative least gain", verdict(min_gain=-0.1), ValueError, "found -0.1", "at least 0"),
    Case("a least gain of NaN", verdict(min_gain=NAN), ValueError, "found nan", "min_gain must be a relative gain of at least 0"),
    Case("an unknown target", verdict(targets="cats"), ValueError, "unknown target 'cats'", r"expected one of \['cat', 'dog', 'cow'\] or its index"),
    Case("a target out of range", verdict(targets=[3]), ValueError, "unknown target 3", "expected one of"),
    Case("a target below zero", verdict(targets=-1), ValueError, "unknown target -1", "expected one of"),
    Case("a target that is half", verdict(targets=0.5), ValueError, "unknown target 0.5", "expected one of"),
    Case("a mask for targets", verdict(targets=[True, False, True]), ValueError, "unknown target True", "expected one of"),
    Case("no targets", verdict(targets=[]), ValueError, "targets is empty", "pass None for all"),
    Case("a target without samples", verdict(GAP, targets=["cat", "dog"]), ValueError, "must have validation samples, found none of dog", "Drop these targets"),
    Case("nothing but gaps", verdict(InfluenceMatrix(np.full((2, 2), NAN), [0, 1])), ValueError, "no category", "validation samples"),
    Case("floors without targets", verdict(floors=0.1), ValueError, "need not gain", r"targets=\[...\]"),
    Case("floors for other categories", verdict(targets="cat", floors=[0, 0]), ValueError, r"found shape \(2,\)", "one number or 3"),
    Case("floors of NaN", verdict(targets="cat", floors=NAN), ValueError, "nan", "must be finite"),
    Case("a floor of NaN", verdict(targets="cat", floors=[0, 0, NAN]), ValueError, "found nan for cow", "must be finite"),
    Case("floors as text", verdict(targets="cat", floors="dog"), ValueError, "found 'dog'", "one number, 3 numbers or a dict by name"),
    Case("a floor of an unknown name", verdict(targets="cat", floors={"dig": 0.0}), ValueError, r"unknown categories \['dig'\]", r"expected names from \['cat', 'dog', 'cow'\]"),
    Case("a floor as text by name", verdict(targets="cat", floors={"dog": "low"}), ValueError, "found .*low", "one number, 3 numbers or a dict by name"),
    Case("floors out of reach", verdict(targets="cat", floors={"dog": 5.0}), InfeasibleError, r"'dog' must gain 5 but can gain at most \d", "Lower its floor"),
    Case("thresholds out of reach", solve(thresholds={"dog": 5.0}), InfeasibleError, r"'dog' must gain 5 but can gain at most \d", "Lower its threshold"),
    Case("thresholds out of the paper's reach", solve(InfluenceMatrix([[1, -1], [1, -1]], [0, 1]), method="paper", thresholds=[1, 0], max_weight=1), InfeasibleError, "'1' has 0 and can have at least 1", "raise max_weight"),
    Case("thresholds for other categories", solve(thresholds=[0.1, 0.2]), ValueError, r"found shape \(2,\)", "one number or 3"),
    Case("thresholds of NaN", solve(thresholds=NAN), ValueError, "nan", "must be finite"),
    Case("thresholds out of reach of a sum of zero", solve(InfluenceMatrix([[1, -2, 1], [1, 1, -1]], [0, 1]), method="paper", thresholds=[0.5, 0, 0]), InfeasibleError, "'2' has 0 and can have none, as its influence sums to zero,", "Change its threshold"),
    Case("thresholds outside the paper's", solve(method="paper", thresholds=1.5), ValueError, "found .1.5", r"must be in \[0, 1\]"),
    Case("an unknown program", solve(method="magic"), ValueError, "found 'magic'", "mass_preserving.*paper"),
    Case("an unknown way to give back", solve(return_mass="none"), ValueError, "found 'none'", "additive.*multiplicative"),
    Case("a largest weight below one", solve(method="paper", max_weight=0.5), ValueError, "found 0.5", "at least 1"),
    Case("a largest weight of NaN", solve(method="paper", max_weight=NAN), ValueError, "found nan", "at least 1"),
    Case("a largest weight without bound", solve(method="paper", max_weight=INF), ValueError, "found inf", "at least 1"),
    Case("weights for a gap", solve(GAP, targets=["dog"]), ValueError, "none of the targets", "validation samples"),
    Case("weights for an unknown target", solve(targets=["horse"]), ValueError, "unknown target 'horse'", "expected one of"),
]  # fmt: skip


def written(change):
    """Return a call that reads an influence file with changed bytes."""

    def call(folder):
        path = MATRIX.save(folder / "influence.safetensors")
        path.write_bytes(change(path.read_bytes()))
        InfluenceMatrix.load(path)

    return call


def made(kind="influence", metadata=None, read=InfluenceMatrix, **arrays):
    """Return a call that reads a valid file with inconsistent parts."""

    def call(folder):
        about = {"category_names": NAMES, "metadata": {}} if metadata is None else metadata
        read.load(artifacts.save_artifact(folder / "made", kind, arrays, about))

    return call


def described(text, version="1"):
    """Return a call that reads a file with this text as metadata."""

    def call(folder):
        arrays = {"scores": np.ones((2, 1), np.float32), "labels": np.zeros(2, np.int64)}
        header = {"kind": "influence", "format_version": version, "metadata": text}
        header["digest"] = artifacts._digest(arrays, header)
        (folder / "described").write_bytes(save(arrays, metadata=header))
        InfluenceMatrix.load(folder / "described")

    return call


def of_another_kind(folder):
    InfluenceMatrix.load(SampleWeights([1.0]).save(folder / "weights"))


def whole(**changes):
    return {"scores": SCORES.astype(np.float32), "labels": np.arange(60) % 3, **changes}


AGAIN = "Compute it again"
FILES = [
    Case("a truncated file", written(lambda b: b[:-3]), ArtifactError, "not a valid safetensors", AGAIN),
    Case("three bytes", written(lambda b: b[:3]), ArtifactError, "not a valid safetensors", AGAIN),
    Case("an empty file", written(lambda b: b""), ArtifactError, "not a valid safetensors", AGAIN),
    Case("a pickle", written(lambda b: b"\x80\x04}\x94."), ArtifactError, "not a valid safetensors", AGAIN),
    Case("a bit that flipped", written(lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:]), ArtifactError, "has changed since", AGAIN),
    Case("a header of a gigabyte", written(lambda b: (2**30).to_bytes(8, "little") + b[8:]), ArtifactError, "claims 1073741824 bytes", AGAIN),
    Case("a header without end", written(lambda b: b"\xff" * 8 + b[8:]), ArtifactError, "at most 16777216 are read", AGAIN),
    Case("a file of another kind", of_another_kind, ArtifactError, "holds 'weights'", "expected 'influence'"),
    Case("a file of no kind", lambda f: ((f / "x").write_bytes(save(whole())), InfluenceMatrix.load(f / "x")), ArtifactError, "no known kind", "expected 'influence'"),
    Case("a newer format", described("{}", version="99"), ArtifactError, "format version 99, but this lightning_pareto reads versions up to 1 only", "pip install --upgrade"),
    Case("a format of no number", described("{}", version="new"), ArtifactError, "must have a numeric format version, found 'new'", AGAIN),
    Case("a format of many digits", described("{}", version="9" * 5000), ArtifactError, "must have a numeric format version", AGAIN),
    Case("broken JSON", described("{"), ArtifactError, "JSONDecodeError", AGAIN),
    Case("JSON nested without end", described("[" * 10**5), ArtifactError, "RecursionError", AGAIN),
    Case("objects nested without end", described('{"a":' * 10**5), ArtifactError, "RecursionError", AGAIN),
    Case("a list for metadata", described("[]"), ArtifactError, "parts are inconsistent", AGAIN),
    Case("no names in the metadata", described("{}"), ArtifactError, "category_names", AGAIN),
    Case("a number for names", described(json.dumps({"category_names": 5, "metadata": {}})), ArtifactError, "iterable", AGAIN),
    Case("a number of many digits", described('{"category_names": ' + "1" * 6000 + "}"), ArtifactError, "ValueError", AGAIN),
    Case("a text for metadata", described(json.dumps({"category_names": ["a"], "metadata": "x"})), ArtifactError, "parts are inconsistent", AGAIN),
    Case("an array missing", made(scores=whole()["scores"]), ArtifactError, "labels", AGAIN),
    Case("an array too many", made(**whole(other=SCORES)), ArtifactError, "'other'", AGAIN),
    Case("an array for names", made(**whole(category_names=SCORES)), ArtifactError, "category_names", AGAIN),
    Case("arrays of two lengths", made(**whole(labels=np.arange(5))), ArtifactError, r"\(60,\)", AGAIN),
    Case("floating labels in a file", made(**whole(labels=np.ones(60))), ArtifactError, "integers", AGAIN),
    Case("weights below zero in a file", made("weights", read=SampleWeights, values=-np.ones(3), predicted_gain=np.ones(3)), ArtifactError, "found -1.0 at index 0", AGAIN),
    Case("a verdict without arrays", made("verdict", read=ParetoVerdict), ArtifactError, "written by another version: .*'regions'", AGAIN),
    Case("a folder for a file", lambda folder: InfluenceMatrix.load(folder), FileNotFoundError, "no influence artifact", ""),
]  # fmt: skip


def compared(arm=((0.5, 0.6),), names=("cat", "dog"), baseline="a"):
    return lambda _folder: ClasswiseComparison({"a": [[0.5, 0.6]], "b": arm}, names, baseline)


COMPARISONS = [
    Case("accuracies in per cent", compared([[50.0, 60.0]]), ValueError, "found 50 in arm 'b'", "Divide percentages by 100"),
    Case("an accuracy of NaN", compared([[0.5, NAN]]), ValueError, "found nan in arm 'b'", "in all arms and seeds"),
    Case("an accuracy below zero", compared([[0.5, -0.1]]), ValueError, "found -0.1 in arm 'b'", r"must be in \[0, 1\]"),
    Case("arms of other seeds", compared([[0.5, 0.6]] * 2), ValueError, r"found \(2, 2\)", r"must have shape \(1, 2\)"),
    Case("arms of other classes", compared(names=["cat"]), ValueError, r"found \(1, 2\)", r"must have shape \(1, 1\)"),
    Case("a class compared twice", compared(names=["cat", "cat"]), ValueError, "'cat', 'cat'", "different names"),
    Case("a baseline that is no arm", compared(baseline="c"), ValueError, "found 'c'", r"baseline must be one of the arms \['a', 'b'\]"),
]  # fmt: skip
CASES = [*MATRICES, *WEIGHTS, *OPTIONS, *FILES, *COMPARISONS]
