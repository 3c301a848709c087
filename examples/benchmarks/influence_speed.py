"""Time and fidelity of the whole influence matrix, beside kronfluence's, in one run.

    pip install lightning_pareto kronfluence torchvision
    python examples/benchmarks/influence_speed.py

For three models on random data (time does not depend on what the data mean) it prints one epoch of plain training, the
time of ``estimate_influence`` stage by stage in epoch-equivalents, the time of kronfluence's EK-FAC factors and its K
aggregated class passes, and the smallest correlation between the two over the classes. ``--alone`` leaves kronfluence
out. Expected on two cores: less than four epoch-equivalents at 10,000 samples, and a tenth of kronfluence's time.
"""

import argparse
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_pareto import InfluenceMatrix, estimate_influence

BATCH = 128


class Residual(nn.Module):
    """Adds what it computes to its input."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.layers(x))


def convolution(inputs: int, outputs: int, *after: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), *after
    )


def small_net() -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Linear(288, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def resnet9(width: int = 16, channels: int = 3) -> nn.Module:
    return nn.Sequential(
        convolution(channels, width),
        convolution(width, 2 * width, nn.MaxPool2d(2)),
        Residual(convolution(2 * width, 2 * width), convolution(2 * width, 2 * width)),
        convolution(2 * width, 4 * width, nn.MaxPool2d(2)),
        convolution(4 * width, 8 * width, nn.MaxPool2d(2)),
        Residual(convolution(8 * width, 8 * width), convolution(8 * width, 8 * width)),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(8 * width, 10),
    )


class Encoder(nn.Module):
    """A two-layer transformer encoder over tokens, as a text classifier has it; its attention from linear layers."""

    def __init__(self, vocabulary: int = 5_000, width: int = 64, heads: int = 4, classes: int = 6) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(2)])
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and a feed-forward part."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (z.unflatten(2, (self.heads, -1)).transpose(1, 2) for z in self.mix(self.norm(x)).chunk(3, dim=-1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        z: Tensor = self.down(F.gelu(self.up(self.norm_forward(x))))
        return x + z


@dataclass(frozen=True)
class Case:
    """A model with the data it is timed on.

    Attributes:
        model: makes it.
        shape: of one sample; a length stands for tokens.
        classes: number of classes.
        layers: the parameters that kronfluence can handle, for the comparison.
    """

    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int
    layers: list[str] | None = None


KRONECKER = ["*.mix.*", "*.out.*", "*.up.*", "*.down.*", "head.*"]

CASES = {
    "small convolutional net, 28 x 28": Case(small_net, (1, 28, 28), 10),
    "ResNet-9, 32 x 32": Case(resnet9, (3, 32, 32), 10, ["*.0.weight", "8.*"]),
    "transformer encoder, 24 tokens": Case(Encoder, (24,), 6, KRONECKER),
}


def data(case: Case, size: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    if len(case.shape) == 1:
        x = torch.randint(5_000, (size, *case.shape), generator=generator)
    else:
        x = torch.randn(size, *case.shape, generator=generator)
    return TensorDataset(x, torch.randint(case.classes, (size,), generator=generator))


def train_epoch(model: nn.Module, train: TensorDataset) -> float:
    """Seconds of one epoch of plain training."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    start = time.perf_counter()
    for x, y in DataLoader(train, batch_size=BATCH):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
    return time.perf_counter() - start


class Stopwatch:
    """Seconds of every stage, told by progress."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._last = time.perf_counter()

    def __call__(self, stage: str, done: int, _total: int) -> None:
        now = time.perf_counter()
        self.seconds["between passes" if done == 0 else stage] += now - self._last
        self._last = now


def ours(
    model: nn.Module, train: TensorDataset, val: TensorDataset, layers: list[str] | None, folds: int
) -> tuple[InfluenceMatrix, Stopwatch]:
    watch = Stopwatch()
    loaders = DataLoader(train, batch_size=BATCH, shuffle=True), DataLoader(val, batch_size=BATCH)
    return estimate_influence(model, *loaders, folds=folds, layers=layers, progress=watch), watch


def theirs(model: nn.Module, train: TensorDataset, val: TensorDataset, classes: int) -> tuple[np.ndarray, float, float]:
    """Kronfluence's class sums of scores (N, K), seconds of the factors and of the K class passes."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class Classification(Task):  # type: ignore[misc]
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            logits = model(batch[0])
            labels = torch.multinomial(logits.detach().softmax(1), 1).squeeze(1) if sample else batch[1]
            return F.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    task = Classification()
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            "speed", prepare_model(model.eval(), task), task, cpu=True, output_dir=folder, disable_tqdm=True
        )
        start = time.perf_counter()
        analyzer.fit_all_factors("ekfac", train, BATCH, factor_args=FactorArguments(strategy="ekfac"))
        factors = time.perf_counter() - start
        start = time.perf_counter()
        columns = []
        for k in range(classes):
            members = (val.tensors[1] == k).nonzero().squeeze(1).tolist()
            analyzer.compute_pairwise_scores(
                f"class {k}",
                "ekfac",
                Subset(val, members),
                train,
                per_device_query_batch_size=BATCH,
                per_device_train_batch_size=BATCH,
                score_args=ScoreArguments(aggregate_query_gradients=True, damping_factor=None),
            )
            scores = analyzer.load_pairwise_scores(f"class {k}")
            columns.append(scores["all_modules"].squeeze(0).numpy() / len(members))
        return np.stack(columns, axis=1), factors, time.perf_counter() - start


def report(name: str, case: Case, options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    model, train, val = case.model(), data(case, options.train, 1), data(case, options.val, 2)
    for _ in range(2):
        train_epoch(model, train)
    epoch = min(train_epoch(model, train) for _ in range(2))
    layers = None if options.alone else case.layers
    _, watch = ours(model, train, val, layers, options.folds)
    total = sum(watch.seconds.values())
    print(
        f"\n{name}: {options.train:,} training, {options.val:,} validation samples, {torch.get_num_threads()} threads"
    )
    print(f"  one epoch of plain training     {epoch:7.1f} s")
    print(f"  lightning_pareto, {options.folds} folds       {total:7.1f} s  {total / epoch:5.1f} epochs")
    for stage, seconds in watch.seconds.items():
        print(f"    {stage:<28}  {seconds:7.1f} s  {seconds / epoch:5.2f}")
    if options.alone:
        return
    one_fold, watch = ours(model, train, val, layers, 1)
    ours_total = sum(watch.seconds.values())
    scores, factors, passes = theirs(model, train, val, case.classes)
    correlation = min(np.corrcoef(one_fold.scores[:, k], scores[:, k])[0, 1] for k in range(case.classes))
    print(f"  lightning_pareto, no folds      {ours_total:7.1f} s  {ours_total / epoch:5.1f} epochs")
    print(f"  kronfluence                     {factors + passes:7.1f} s  {(factors + passes) / epoch:5.1f} epochs")
    print(f"    factors {factors:.1f} s, {case.classes} class passes {passes:.1f} s")
    print(f"  ratio with folds {total / (factors + passes):.3f}, without {ours_total / (factors + passes):.3f}")
    print(f"  least correlation over the classes {correlation:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=10_000, help="training samples")
    parser.add_argument("--val", type=int, default=2_000, help="validation samples")
    parser.add_argument("--folds", type=int, default=8, help="folds of the validation set")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--alone", action="store_true", help="without kronfluence, and with all layers")
    parser.add_argument("--case", type=int, help="only this one, from 0")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads")
    warnings.simplefilter("ignore")
    for number, (name, case) in enumerate(CASES.items()):
        if options.case in (None, number):
            report(name, case, options)


if __name__ == "__main__":
    main()
