"""How long does influence take, in epochs of plain training and relative to kronfluence?

    pip install lightning_pareto kronfluence torchvision
    python examples/benchmarks/influence_speed.py [--alone] [--device cuda] [--precision bf16-mixed]

Runs seven models on random data, because the content of the data does not affect the time. Prints for each:

* the time of one epoch of plain training,
* the time of ``estimate_influence``, stage by stage, also in epochs of plain training,
* the time of kronfluence's EK-FAC factors and of its K passes, one for each class,
* the lowest correlation over the classes between the scores of the two.

``--alone`` skips kronfluence and covers all layers. Expected on 2 CPU cores with 10,000 training samples, for the first
three models: about four epochs of plain training, and one to two tenths of kronfluence's time.
"""

import argparse
import functools
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_pareto import InfluenceMatrix, estimate_influence

BATCH = 128
CPU = torch.device("cpu")
Context = Callable[[], AbstractContextManager[Any]]


class Residual(nn.Module):
    """Adds the output of some layers to their input."""

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


def flattened(shape: tuple[int, int, int], channels: tuple[int, int], widths: tuple[int, ...]) -> nn.Module:
    """Two convolutions, flattened into linear layers of these widths, and 10 classes."""
    inputs, height, width = shape
    layers: list[nn.Module] = []
    for outputs in channels:
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        inputs, height, width = outputs, height // 2, width // 2
    layers.append(nn.Flatten())
    inputs *= height * width
    for outputs in widths:
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.Linear(inputs, 10))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
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
    """A two-layer transformer encoder over tokens, as in a text classifier. Its attention consists of linear layers."""

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
    """Attention and a feed-forward network."""

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
    """A model and the data to time it on.

    Attributes:
        model: makes the model.
        shape: shape of one sample; a single number is a number of tokens.
        classes: number of classes.
        layers: patterns of the parameters that kronfluence can handle, for the comparison; None for all.
    """

    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int
    layers: list[str] | None = None


ENCODER_LAYERS = ["*.mix.*", "*.out.*", "*.up.*", "*.down.*", "head.*"]

CASES = {
    "small convolutional net, 28 x 28": Case(small_net, (1, 28, 28), 10),
    "ResNet-9, 32 x 32": Case(resnet9, (3, 32, 32), 10, ["*.0.weight", "8.*"]),
    "transformer encoder, 24 tokens": Case(Encoder, (24,), 6, ENCODER_LAYERS),
    "digits net, 8 x 8": Case(functools.partial(flattened, (1, 8, 8), (16, 32), (64,)), (1, 8, 8), 10),
    "LeNet-like net, 28 x 28": Case(functools.partial(flattened, (1, 28, 28), (6, 16), (120, 84)), (1, 28, 28), 10),
    "net with a wide linear layer, 28 x 28": Case(
        functools.partial(flattened, (1, 28, 28), (32, 64), (128,)), (1, 28, 28), 10
    ),
    "MLP, 784": Case(mlp, (1, 28, 28), 10),
}


def data(case: Case, size: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    if len(case.shape) == 1:
        x = torch.randint(5_000, (size, *case.shape), generator=generator)
    else:
        x = torch.randn(size, *case.shape, generator=generator)
    return TensorDataset(x, torch.randint(case.classes, (size,), generator=generator))


def now(device: torch.device) -> float:
    """Seconds on a clock, after all work queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def train_epoch(model: nn.Module, train: TensorDataset, device: torch.device, context: Context) -> float:
    """Seconds of one epoch of plain training."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    start = now(device)
    for x, y in DataLoader(train, batch_size=BATCH):
        optimiser.zero_grad()
        with context():
            loss = F.cross_entropy(model(x.to(device)), y.to(device))
        loss.backward()
        optimiser.step()
    return now(device) - start


class Stopwatch:
    """Measures the seconds of each stage from the progress that ``estimate_influence`` reports."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._device = device
        self._last = now(device)

    def __call__(self, stage: str, done: int, total: int) -> None:
        if done in (0, total):
            moment = now(self._device)
            self.seconds["between passes" if done == 0 else stage] += moment - self._last
            self._last = moment


def kronfluence_scores(
    model: nn.Module,
    train: TensorDataset,
    val: TensorDataset,
    classes: int,
    device: torch.device = CPU,
    rank: int | None = None,
) -> tuple[np.ndarray, float, float]:
    """Kronfluence's scores summed over each class, (N, K), and the seconds of its factors and of its class passes.

    With a rank, it truncates the gradients of the single validation samples, which it cannot sum up then.
    """
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
        model = prepare_model(model.eval(), task)
        analyzer = Analyzer("speed", model, task, cpu=device == CPU, output_dir=folder, disable_tqdm=True)
        start = now(device)
        analyzer.fit_all_factors("ekfac", train, BATCH, factor_args=FactorArguments(strategy="ekfac"))
        between = now(device)
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
                score_args=ScoreArguments(
                    aggregate_query_gradients=rank is None, damping_factor=None, query_gradient_low_rank=rank
                ),
            )
            scores = analyzer.load_pairwise_scores(f"class {k}")
            columns.append(scores["all_modules"].sum(dim=0).numpy() / len(members))
        return np.stack(columns, axis=1), between - start, now(device) - between


def report(name: str, case: Case, options: argparse.Namespace) -> None:
    device = torch.device(options.device)
    context: Context = nullcontext
    if options.precision == "bf16-mixed":
        context = functools.partial(torch.autocast, device.type, torch.bfloat16)
    torch.manual_seed(0)
    model, train, val = case.model().to(device), data(case, options.train, 1), data(case, options.val, 2)
    for _ in range(2):
        train_epoch(model, train, device, context)
    epoch = min(train_epoch(model, train, device, context) for _ in range(2))
    layers = None if options.alone else case.layers

    def influence(folds: int) -> tuple[InfluenceMatrix, dict[str, float]]:
        loaders, watch = (DataLoader(train, batch_size=BATCH), DataLoader(val, batch_size=BATCH)), Stopwatch(device)
        found = estimate_influence(model, *loaders, folds=folds, layers=layers, context=context, progress=watch)
        return found, watch.seconds

    if device != CPU:
        influence(1)  # the first call loads the device's libraries
    stages = influence(options.folds)[1]
    total = sum(stages.values())
    print(f"\n{name}: {options.train:,} training and {options.val:,} validation samples")
    print(f"  one epoch of plain training     {epoch:7.2f} s")
    print(f"  lightning_pareto, {options.folds} folds       {total:7.2f} s  {total / epoch:5.1f} epochs")
    for stage, seconds in stages.items():
        print(f"    {stage:<28}  {seconds:7.2f} s  {seconds / epoch:5.2f}")
    if options.alone:
        return
    one_fold, stages = influence(1)
    without_folds = sum(stages.values())
    scores, factors, passes = kronfluence_scores(model, train, val, case.classes, device)
    kronfluence = factors + passes
    correlation = min(np.corrcoef(one_fold.scores[:, k], scores[:, k])[0, 1] for k in range(case.classes))
    print(f"  lightning_pareto, no folds      {without_folds:7.2f} s  {without_folds / epoch:5.1f} epochs")
    print(f"  kronfluence                     {kronfluence:7.2f} s  {kronfluence / epoch:5.1f} epochs")
    print(f"    factors {factors:.1f} s, {case.classes} class passes {passes:.1f} s")
    print(f"  time over kronfluence's: {total / kronfluence:.3f} with folds, {without_folds / kronfluence:.3f} without")
    print(f"  lowest correlation over the classes: {correlation:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=10_000, help="number of training samples")
    parser.add_argument("--val", type=int, default=2_000, help="number of validation samples")
    parser.add_argument("--folds", type=int, default=8, help="folds of the validation set")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    parser.add_argument("--device", default="cpu", help='"cpu" or "cuda"')
    parser.add_argument(
        "--precision", default="32-true", choices=["32-true", "bf16-mixed"], help="kronfluence ignores it"
    )
    parser.add_argument("--alone", action="store_true", help="skip kronfluence and cover all layers")
    parser.add_argument("--case", type=int, help="number of the only model to run, from 0")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} CPU threads, models on {options.device}, precision {options.precision}")
    warnings.simplefilter("ignore")
    for number, (name, case) in enumerate(CASES.items()):
        if options.case in (None, number):
            report(name, case, options)


if __name__ == "__main__":
    main()
