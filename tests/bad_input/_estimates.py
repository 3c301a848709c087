"""Bad data, models, tasks and options for ``estimate_influence``."""

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler, TensorDataset

from lightning_pareto import BatchError, ClassificationTask, CurvatureError, estimate_influence
from tests._oracles import loader
from tests.bad_input._case import Case

X, Y = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
GOOD = loader(X, Y, batch_size=16)
SEVERAL = (torch.stack([Y == 0, Y < 2, Y == 2], dim=1)).float()
LONG = {"factors", "eigenvalues", "gauss-newton", "category gradients", "scores"}


def as_dict(samples):
    x, y = torch.utils.data.default_collate(samples)
    return {"x": x, "labels": y}


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(3), 0)])


class Hidden(Dataset):
    """Samples whose labels are not stored as a list or tensor."""

    def __init__(self, y):
        self.y = y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return X[i], self.y[i]


class Then(nn.Module):
    """A linear layer with a function before and after it."""

    def __init__(self, then, before=lambda x: x):
        super().__init__()
        self.layer, self.then, self.before = nn.Linear(3, 3), then, before

    def forward(self, x):
        return self.then(self.layer(self.before(x)))


class Unused(nn.Module):
    """A module that uses none of its parameters."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return 2 * x


class TrainsAlways(nn.Module):
    """Puts its BatchNorm into training mode on every call."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm.train()(self.layer(x))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3))


def with_label(index, label):
    y = Y.clone()
    y[index] = label
    return y


def with_input(index, value):
    x = X.clone()
    x[index, 1] = value
    return x


def broken_net(value):
    module = net()
    module[0].weight.data[0, 0] = value
    return module


def complex_net():
    module = net()
    module.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    return module


def created_in_inference_mode():
    with torch.inference_mode():
        return net()


def estimate(module=net, train=GOOD, val=GOOD, **options):
    """A case's call. Asserts that the error comes before any long pass."""

    def call(_folder):
        started = []
        try:
            estimate_influence(module() if module is net else module, train, val, progress=record(started), **options)
        finally:
            assert not LONG & set(started), "long work before the error"

    return call


def record(started):
    return lambda stage, *_: started.append(stage)


def late(module=net, train=GOOD, val=GOOD, **options):
    """A case's call whose error is found only in a pass over the training set."""
    return lambda _folder: estimate_influence(module() if module is net else module, train, val, **options)


def without_last(samples):
    return torch.utils.data.default_collate(samples[1:])


def last_layer_only(module, batch):
    return module[2](torch.ones(len(batch[0]), 8))


def cross_entropy(logits, targets):
    return nn.functional.cross_entropy(logits, targets, reduction="none")


def loss(function):
    return {"task": ClassificationTask(loss=function)}


ONE = TensorDataset(X[:1], Y[:1])
DATA = [
    Case("empty training set", estimate(train=loader(X[:0], Y[:0])), ValueError, "train_dataloader has an empty", ""),
    Case("empty validation set", estimate(val=loader(X[:0], Y[:0])), ValueError, "val_dataloader has an empty", ""),
    Case("a training stream", estimate(train=DataLoader(Stream())), TypeError, "found Stream, which has no index", r"list\(dataset\)"),
    Case("a validation stream", estimate(val=DataLoader(Stream())), TypeError, "val_dataloader must read .* found Stream", "list"),
    Case("a list of loaders", estimate(train=[GOOD, GOOD]), TypeError, "found list", "choose one with train_dataloader="),
    Case("a list of validation loaders", estimate(val=[GOOD]), TypeError, "found list", "val_dataloader_idx"),
    Case("a part by SubsetRandomSampler", estimate(train=DataLoader(GOOD.dataset, sampler=SubsetRandomSampler(range(9)))), TypeError, "draws 9 of .* samples by its sampler", r"Subset\(dataset, indices\)"),
    Case("a dataset instead of a loader", estimate(train=GOOD.dataset), TypeError, "found TensorDataset", "DataLoader"),
    Case("no batching", estimate(train=DataLoader(GOOD.dataset, batch_size=None)), TypeError, "disabled", "batch_size"),
    Case("a collate function that drops", estimate(train=loader(X, Y, collate_fn=without_last)), ValueError, r"labels for \d+ samples", "neither drop"),
    Case("label -100 in training", estimate(train=loader(X, with_label(41, -100))), BatchError, r"training sample 41: .*found -100", "Remove or relabel"),
    Case("label -100 in validation", estimate(val=loader(X, with_label(41, -100))), BatchError, r"validation sample 41: .*\[0, 3\)", "Remove"),
    Case("label too large", estimate(train=loader(X, with_label(33, 7))), BatchError, "training sample 33: .*found 7", "relabel"),
    Case("label too large, not stored", late(train=DataLoader(Hidden(with_label(33, 7)))), BatchError, "training sample 33: .*found 7", "relabel"),
    Case("floating labels", estimate(train=loader(X, Y.float())), BatchError, "expected integer labels", "ClassificationTask"),
    Case("one-hot labels", estimate(val=loader(X, nn.functional.one_hot(Y, 3).float())), BatchError, r"shape \(\d+, 3\)", "argmax"),
    Case("integer one-hot labels", estimate(train=loader(X, nn.functional.one_hot(Y, 3))), BatchError, r"found a torch.int64 tensor of shape \(\d+, 3\)", r"If each row marks one class: .*batch\[1\]\.argmax"),
    Case("labels in a column", estimate(train=loader(X, Y[:, None])), BatchError, r"shape \(\d+, 1\)", r"batch\[1\]\.squeeze\(1\),"),
    Case("floating labels in a column", estimate(train=loader(X, Y[:, None].float())), BatchError, "float32", r"batch\[1\]\.squeeze\(1\)\.long\(\)"),
    Case("labels in a column of a dict", estimate(train=loader(X, Y[:, None], collate_fn=as_dict)), BatchError, r"shape \(\d+, 1\)", r'batch\["labels"\]\.squeeze\(1\)'),
    Case("numbers to predict", estimate(train=loader(X, Y + 0.5)), BatchError, "float32", "regression, which is not supported"),
    Case("several labels", estimate(train=loader(X, SEVERAL)), BatchError, r"shape \(\d+, 3\)", "multi-label"),
    Case("labels of pixels", estimate(train=loader(X, Y[:, None].repeat(1, 4))), BatchError, r"shape \(\d+, 4\)", "token tagging"),
    Case("a batch without labels", estimate(train=DataLoader(TensorDataset(X))), BatchError, "list of length 1", "ClassificationTask"),
    Case("a batch that is a tensor", estimate(train=DataLoader(X)), BatchError, "tensor of shape", "targets=lambda batch"),
    Case("a batch of three", estimate(train=loader(X, Y, collate_fn=lambda b: (*torch.utils.data.default_collate(b), 0))), BatchError, "(tuple|list) of length 3", "task=task"),
    Case("NaN in training inputs", late(train=loader(with_input(37, torch.nan), Y)), BatchError, "training sample 37: .*not finite", "NaN or inf"),
    Case("NaN in validation inputs", estimate(val=loader(with_input(37, torch.nan), Y)), BatchError, "validation sample 37: ", "NaN or inf"),
    Case("infinite inputs", late(train=loader(with_input(50, torch.inf), Y)), BatchError, "training sample 50: ", "NaN or infinity"),
]  # fmt: skip
MODELS = [
    Case("NaN weights", estimate(broken_net(torch.nan)), BatchError, "outputs are not finite", "diverged"),
    Case("infinite weights", estimate(broken_net(torch.inf)), BatchError, "outputs are not finite", "diverged"),
    Case("no parameters", estimate(nn.Flatten()), ValueError, "no trainable parameter", "Unfreeze"),
    Case("all frozen", estimate(net().requires_grad_(False)), ValueError, "every parameter is frozen", "Unfreeze"),
    Case("complex parameters", estimate(complex_net()), ValueError, r"complex parameters \(phase\)", "real and imaginary"),
    Case("None instead of a module", estimate(None), TypeError, "found NoneType", "estimate_influence"),
    Case("lazy parameters", estimate(nn.LazyLinear(3)), ValueError, "has no shape yet", "Run one batch"),
    Case("meta parameters", estimate(net().to("meta")), ValueError, "meta device", "Load the weights"),
    Case("inference parameters", estimate(created_in_inference_mode()), ValueError, "created under torch.inference_mode", "new module"),
    Case("half precision with float32 inputs", estimate(net().half()), BatchError, "same dtype", r"module.float\(\)"),
    Case("unused parameters", estimate(Unused()), BatchError, "do not depend on any trainable", r"detach\(\)"),
    Case("detached logits", estimate(Then(torch.detach)), BatchError, "do not depend", r"torch.no_grad\(\)"),
    Case("rounded logits", estimate(Then(lambda z: z.round().long())), BatchError, "real numbers, found a torch.int64", "before any rounding"),
    Case("complex logits", estimate(Then(lambda z: z + 0j)), BatchError, "real numbers, found a torch.complex64", "ClassificationTask"),
    Case("one logit", estimate(Then(lambda z: z[:, :1]), train=loader(X, Y % 2)), BatchError, "found a single one", "functional.pad"),
    Case("logits in one dimension", estimate(Then(lambda z: z[:, 0]), train=loader(X, Y % 2)), BatchError, "found a single one", "ClassificationTask"),
    Case("logits in three dimensions", estimate(Then(lambda z: z[:, None])), BatchError, r"\(5, 1, 3\)", "ClassificationTask"),
    Case("too few logits", estimate(Then(lambda z: z[:-1])), BatchError, r"expected logits of shape \(5, C\)", "logits=lambda"),
    Case("a tuple instead of logits", estimate(Then(lambda z: (z, z))), BatchError, "found tuple of length 2", "ClassificationTask"),
    Case("None instead of logits", estimate(Then(lambda z: None)), BatchError, "found NoneType", "ClassificationTask"),
    Case("a forward with other arguments", estimate(nn.Bilinear(3, 3, 3)), BatchError, "rejected the batch", "ClassificationTask"),
    Case("BatchNorm without statistics", estimate(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False))), BatchError, "more than 1 value per channel", "track_running_stats=True"),
    Case("BatchNorm that always trains", estimate(TrainsAlways()), BatchError, "more than 1 value per channel", "single samples in evaluation mode"),
    Case("unused layers", late(layers=["0.*"], task=ClassificationTask(logits=last_layer_only)), CurvatureError, "depends on no covered parameter", "cover other layers"),
]  # fmt: skip
TASKS = [
    Case("a loss that is a single number", estimate(**loss(lambda z, y: z.mean())), ValueError, "one differentiable value per sample", 'reduction="none"'),
    Case("a loss without gradient", estimate(**loss(lambda z, y: z.detach()[:, 0])), ValueError, "one differentiable value", "reduction"),
    Case("a loss that is not a tensor", estimate(**loss(lambda z, y: 1.0)), ValueError, "found float", "reduction"),
    Case("a loss of NaN", estimate(**loss(lambda z, y: z[:, 0] * torch.nan)), ValueError, "a sample's loss is not finite", "NaN in the inputs"),
    Case("a loss divided by its mean", estimate(**loss(lambda z, y: cross_entropy(z, y) / cross_entropy(z, y).mean())), ValueError, "changes with the other samples", "own row"),
    Case("a loss of centred logits", estimate(**loss(lambda z, y: cross_entropy(z - z.mean(0), y))), ValueError, "changes with the other", "without a mean"),
    Case("too few class names", estimate(category_names=["a", "b"]), ValueError, "2 class names for a model with 3 logits", "one for each"),
    Case("too many class names", estimate(category_names=list("abcd")), ValueError, "4 class names for a model with 3", "one for each"),
    Case("duplicate class names", estimate(category_names=list("aab")), ValueError, "different names", "list"),
    Case("a string for class names", estimate(category_names="abc"), ValueError, "found 'abc'", "must be a list"),
    Case("floating categories", estimate(categories=lambda b: b[0]), ValueError, "must return an integer tensor", r"shape \(16,\)"),
    Case("negative categories", estimate(categories=lambda b: b[1] - 1), ValueError, r"found -1 to 1", "one class name for each"),
    Case("categories with gaps", estimate(categories=lambda b: 100 * b[1]), ValueError, "201 categories for 60", "without gaps"),
    Case("categories without names", estimate(categories=lambda b: b[1], category_names=["a"]), ValueError, r"\[0, 1\), found 0 to 2", "one class name"),
]  # fmt: skip
OPTIONS = [
    Case("damping 0", estimate(damping=0.0), ValueError, "found 0.0", "must be > 0"),
    Case("damping NaN", estimate(damping=float("nan")), ValueError, "found nan", "damping must be > 0"),
    Case("damping as a string", estimate(damping="0.1"), ValueError, "found '0.1'", "damping must be > 0"),
    Case("no folds", estimate(folds=0), ValueError, "found 0", "an integer ≥ 1"),
    Case("a fractional number of folds", estimate(folds=2.5), ValueError, "found 2.5", "an integer ≥ 1"),
    Case("folds as bool", estimate(folds=True), ValueError, "found True", "an integer ≥ 1"),
    Case("a seed below 0", estimate(seed=-1), ValueError, "found -1", "an integer ≥ 0"),
    Case("memory 0", estimate(max_memory=0), ValueError, "found 0", r"must be > 0 \(a limit in GiB\)"),
    Case("memory NaN", estimate(max_memory=float("nan")), ValueError, "found nan", r"must be > 0 \(a limit in GiB\)"),
    Case("tolerance NaN", estimate(tolerance=float("nan")), ValueError, "found nan", r"in \(0, 1\)"),
    Case("no curvature samples", estimate(curvature_samples=0), ValueError, "found 0", "None for all"),
    Case("a fractional number of curvature samples", estimate(curvature_samples=1.5), ValueError, "found 1.5", "an integer ≥ 1"),
    Case("an unknown measure", estimate(measure="accuracy"), ValueError, "found 'accuracy'", "loss.*soft_error"),
    Case("a list of measures", estimate(measure=["loss"]), ValueError, r"found \['loss'\]", "must be one of"),
    Case("an unknown curvature", estimate(curvature="hessian"), ValueError, "found 'hessian'", "ekfac.*cg"),
    Case("an unknown Fisher", estimate(fisher="true"), ValueError, "found 'true'", "sampled.*exact"),
    Case("fisher without effect", estimate(curvature="identity", fisher="exact"), ValueError, "leave it out with 'identity'", "option of"),
    Case("a string for layers", estimate(layers="0.*"), ValueError, "found a string", r"layers=\['0\.\*'\]"),
    Case("layers that match nothing", estimate(layers=["hed.*"]), ValueError, r"matches \['hed", "their names are"),
    Case("an empty list of layers", estimate(layers=[]), ValueError, "no trainable parameter", "its parameters are"),
]  # fmt: skip


CASES = [*DATA, *MODELS, *TASKS, *OPTIONS]
