"""Small networks on real data that are fitted many times, for the studies of the verdict on networks."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_pareto import InfluenceMatrix, ParetoSampler, estimate_influence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fashion_mnist import load
from fashion_mnist import network as fashion_network
from main_job import flip_labels
from quickstart import digits as digits_split
from quickstart import network as digits_network

Part = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """One draw of a data set, as three pairs of (inputs, labels), and how to fit networks on it."""

    name: str
    train: Part
    val: Part
    test: Part
    network: Callable[[], nn.Module]
    epochs: int
    batch_size: int
    lr: float

    @property
    def classes(self) -> int:
        return int(self.val[1].max()) + 1


@dataclass(frozen=True)
class Fitted:
    """A fitted network.

    Attributes:
        module: the network at the epoch with the lowest validation loss.
        loss: test loss of each class at that epoch, (K,).
        accuracy: test accuracy of each class at the epoch with the best mean validation accuracy of the classes, (K,).
    """

    module: nn.Module
    loss: np.ndarray
    accuracy: np.ndarray


def digits(noise: float, seed: int) -> Case:
    split = digits_split(seed, noise)
    parts = [(data.tensors[0], data.tensors[1]) for data in (split.train, split.val, split.test)]
    return Case(f"digits, {noise:.0%} wrong", parts[0], parts[1], parts[2], digits_network, 15, 64, 5e-3)


def fashion(noise: float | str, seed: int, samples: int = 4_000, folder: Path | None = None) -> Case:
    """Fashion-MNIST, where ``noise`` is the share of randomly flipped labels or ``"structured"``.

    With structured noise, a third of the shirts are labelled T-shirt, and a third of the pullovers coat.
    """
    (x, y), test = load(folder)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator)
    train, val = order[:samples], order[samples : samples + 1_000]
    if isinstance(noise, str):
        given = y[train].clone()
        for true, wrong in ((6, 0), (2, 4)):
            given[(y[train] == true) & (torch.rand(samples, generator=generator) < 1 / 3)] = wrong
        name = "Fashion-MNIST, shirts and pullovers confused"
    else:
        given, _ = flip_labels(y[train], noise, 10, generator)
        name = f"Fashion-MNIST, {noise:.0%} wrong"
    return Case(name, (x[train], given), (x[val], y[val]), test, fashion_network, 10, 128, 3e-3)


class EmbeddingBag(nn.Module):
    """Averages word embeddings, followed by one hidden layer."""

    def __init__(self, words: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, 32, padding_idx=0)
        self.hidden = nn.Linear(32, 32)
        self.out = nn.Linear(32, classes)

    def forward(self, ids: Tensor) -> Tensor:
        length = (ids > 0).sum(dim=1, keepdim=True).clamp(min=1)
        mean: Tensor = self.embedding(ids).sum(dim=1) / length
        logits: Tensor = self.out(F.relu(self.hidden(mean)))
        return logits


def emotion(folder: Path, noise: float, seed: int, samples: int = 4_000, words: int = 3_000) -> Case:
    """Sentences with six emotions: train.txt, val.txt and test.txt with a header and lines ``text;label``."""
    read = {part: _sentences(folder / f"{part}.txt") for part in ("train", "val", "test")}
    labels = sorted({label for _, label in read["val"]})
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(read["train"]), generator=generator)[:samples].tolist()
    read["train"] = [read["train"][i] for i in chosen]
    counts: dict[str, int] = {}
    for text, _ in read["train"]:
        for word in text.split():
            counts[word] = counts.get(word, 0) + 1
    number = {word: i + 1 for i, word in enumerate(sorted(counts, key=lambda w: (-counts[w], w))[: words - 1])}
    parts = [_encode(read[part], number, labels) for part in ("train", "val", "test")]
    given, _ = flip_labels(parts[0][1], noise, len(labels), generator)

    def network() -> nn.Module:
        return EmbeddingBag(words, len(labels))

    return Case(f"Emotion, {noise:.0%} wrong", (parts[0][0], given), parts[1], parts[2], network, 15, 64, 2e-2)


def _sentences(path: Path) -> list[tuple[str, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return [(text, label) for text, _, label in (line.rpartition(";") for line in lines) if text]


def _encode(sentences: list[tuple[str, str]], number: dict[str, int], labels: list[str], length: int = 40) -> Part:
    ids = torch.zeros(len(sentences), length, dtype=torch.int64)
    for row, (text, _) in enumerate(sentences):
        known = [number[word] for word in text.split() if word in number][:length]
        ids[row, : len(known)] = torch.tensor(known)
    return ids, torch.tensor([labels.index(label) for _, label in sentences])


def fit(case: Case, weights: np.ndarray | None, seed: int) -> Fitted:
    """Fit from scratch. Weights are the frequencies at which samples are drawn; None means an ordinary fit."""
    torch.manual_seed(seed)
    module = case.network()
    x, y = case.train
    sampler = ParetoSampler(np.ones(len(y)) if weights is None else weights, seed=seed)
    optimiser = torch.optim.Adam(module.parameters(), lr=case.lr)
    steps = case.epochs * (-(-len(sampler) // case.batch_size))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, case.lr, total_steps=steps)
    best: dict[str, tuple[float, dict[str, Tensor]]] = {}
    for epoch in range(case.epochs):
        sampler.set_epoch(epoch)
        for batch in torch.tensor(list(sampler)).split(case.batch_size):
            optimiser.zero_grad()
            F.cross_entropy(module(x[batch]), y[batch]).backward()
            optimiser.step()
            schedule.step()
        loss, accuracy = measures(module, case.val, case.classes)
        overall = np.average(loss, weights=np.bincount(case.val[1], minlength=case.classes))
        for measure, value in (("accuracy", -accuracy.mean()), ("loss", float(overall))):
            if measure not in best or value < best[measure][0]:
                best[measure] = (value, {name: tensor.clone() for name, tensor in module.state_dict().items()})
    module.load_state_dict(best["accuracy"][1])
    accuracy = measures(module, case.test, case.classes)[1]
    module.load_state_dict(best["loss"][1])
    return Fitted(module, measures(module, case.test, case.classes)[0], accuracy)


@torch.no_grad()
def measures(module: nn.Module, part: Part, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Loss and accuracy of each class, (K,) each."""
    x, y = part
    module.eval()
    logits = torch.cat([module(piece) for piece in x.split(1_000)])
    module.train()
    losses, correct = F.cross_entropy(logits, y, reduction="none").double(), (logits.argmax(dim=1) == y).double()
    members = [y == k for k in range(classes)]
    found = [np.array([float(values[member].mean()) for member in members]) for values in (losses, correct)]
    return found[0], found[1]


def small_step(case: Case, module: nn.Module, weights: np.ndarray, steps: int = 30) -> np.ndarray:
    """How much the weights lower the test loss of each class within a few gradient steps, (K,).

    Continues from the fitted network on the same batches, once with the weights in the loss and once without.
    """
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    x, y = case.train
    found = []
    for w in (torch.ones(len(y)), torch.tensor(weights, dtype=torch.float32)):
        module.load_state_dict(state)
        optimiser = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)
        for batch in _batches(len(y), 512, steps):
            optimiser.zero_grad()
            (w[batch] * F.cross_entropy(module(x[batch]), y[batch], reduction="none")).mean().backward()
            optimiser.step()
        found.append(measures(module, case.test, case.classes)[0])
    module.load_state_dict(state)
    drop: np.ndarray = found[0] - found[1]
    return drop


def _batches(samples: int, size: int, count: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield torch.randperm(samples, generator=generator)[:size]


def influence_of(case: Case, module: nn.Module) -> InfluenceMatrix:
    train, val = (DataLoader(TensorDataset(*part), batch_size=500) for part in (case.train, case.val))
    return estimate_influence(module, train, val)
