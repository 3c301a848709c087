"""Is the verdict right where the truth is known? Compares it with the effect of a refit on the loss of each class.

    pip install "lightning_pareto[examples]"
    python examples/benchmarks/verdict_calibration.py

All models are softmax regressions, where influence is exact and a refit reaches its optimum. The data: two classes in
the plane as in the paper's Figure 2 (separable with 50 + 20 wrong labels among 300 + 300, and overlapping), four
overlapping Gaussians with 0 to 40 % wrong labels, balanced and imbalanced, and scikit-learn's digits, clean and noisy.
Prints for each case:

* whether a refit with the verdict's weights lowered the test loss of *every* class,
* the verdict (p-value, answer) and the paper's criterion (first principal axis above a fifth of the variance).

Then prints the area under the ROC curve of both against the measured truth, the rank correlation of the predicted
held-out gains with the measured changes after a small step and after the complete refit, and how often the verdict was
*yes* on data without wrong labels. Expected: an area above 0.95, and fewer false alarms than the level. Takes about
five minutes on one core.
"""

import argparse
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_pareto import ParetoVerdict, check_pareto, estimate_influence, reweight
from lightning_pareto.datasets import gaussian_classes

BUDGET = 0.2
LEVEL = 0.05
STEP = 0.05


@dataclass(frozen=True)
class Case:
    """One data set, as three pairs of (inputs, labels)."""

    name: str
    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Outcome:
    """The verdict on a case, and the measured drops of the test loss of each class, (K,)."""

    verdict: ParetoVerdict
    after_step: np.ndarray
    after_refit: np.ndarray

    @property
    def improved(self) -> bool:
        return bool(self.after_refit.min() > 0)

    @property
    def first_axis(self) -> float:
        return float(self.verdict.explained_variance_ratio[0])


def cases(repetitions: int) -> Iterator[Case]:
    for seed in range(repetitions):
        for noise in (0.0, 0.05, 0.1, 0.2, 0.3, 0.4):
            yield gaussians(noise, seed)
        for noise in (0.0, 0.2):
            yield gaussians(noise, seed, imbalanced=True)
        yield two_classes(seed, distance=3.0, flipped=(50, 20))
        yield two_classes(seed, distance=1.0, flipped=(0, 0))
        for noise in (0.0, 0.2):
            yield digits(noise, seed)


def gaussians(noise: float, seed: int, imbalanced: bool = False) -> Case:
    parts = []
    for number, size in enumerate((1_000, 600, 20_000)):
        data = gaussian_classes(size, noise=noise if number == 0 else 0.0, seed=100_000 * number + seed)
        x, y = data.inputs.double(), data.given
        if imbalanced and number == 0:  # drop half of every second class
            keep = (data.true % 2 == 0) | (torch.rand(size, generator=torch.Generator().manual_seed(seed)) < 0.5)
            x, y = x[keep], y[keep]
        parts.append((x, y))
    name = f"four Gaussians, {noise:.0%} wrong" + (", imbalanced" if imbalanced else "")
    return Case(name, *parts)


def two_classes(seed: int, distance: float, flipped: tuple[int, int]) -> Case:
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for size in (600, 600, 20_000):
        y = torch.arange(size) % 2
        x = torch.randn(size, 2, generator=generator, dtype=torch.float64)
        x[:, 0] += distance * (2 * y - 1)
        parts.append((x, y))
    given = parts[0][1].clone()
    for label, count in enumerate(flipped):
        given[(parts[0][1] == label).nonzero().squeeze(1)[:count]] = 1 - label
    parts[0] = (parts[0][0], given)
    return Case("two classes, separable, 50 + 20 wrong" if any(flipped) else "two classes, overlapping", *parts)


def digits(noise: float, seed: int) -> Case:
    source = load_digits()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(source.target), generator=generator)
    x, y = torch.tensor(source.data)[order] / 16, torch.tensor(source.target)[order]
    given = y[:600].clone()
    wrong = torch.rand(600, generator=generator) < noise
    given[wrong] = (given[wrong] + torch.randint(1, 10, (int(wrong.sum()),), generator=generator)) % 10
    return Case(f"digits, {noise:.0%} wrong", (x[:600], given), (x[600:1200], y[600:1200]), (x[1200:], y[1200:]))


def fit(train: tuple[Tensor, Tensor], weights: np.ndarray | None = None) -> nn.Module:
    """Fit a softmax regression to its optimum."""
    x, y = train
    module = nn.Linear(x.shape[1], int(y.max()) + 1, dtype=torch.float64)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    w = torch.ones(len(y), dtype=torch.float64) if weights is None else torch.from_numpy(weights)
    optimiser = torch.optim.LBFGS(module.parameters(), max_iter=300, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = (w * F.cross_entropy(module(x), y, reduction="none")).mean()
        loss = loss + 1e-3 * module.weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return module


@torch.no_grad()
def losses(module: nn.Module, data: tuple[Tensor, Tensor]) -> np.ndarray:
    """Mean loss of each class, (K,)."""
    x, y = data
    values = F.cross_entropy(module(x), y, reduction="none")
    return np.array([float(values[y == k].mean()) for k in range(int(y.max()) + 1)])


def outcome(case: Case, curvature: str, refit: bool = True) -> Outcome:
    module = fit(case.train)
    loaders = (DataLoader(TensorDataset(*data), batch_size=500) for data in (case.train, case.val))
    influence = estimate_influence(module, *loaders, curvature=curvature, damping=0.1)  # type: ignore[arg-type]
    verdict = check_pareto(influence, budget=BUDGET, level=LEVEL)
    if not refit:
        return Outcome(verdict, np.zeros(1), np.zeros(1))
    weights = reweight(influence, budget=BUDGET).values
    before = losses(module, case.test)
    step = before - losses(fit(case.train, 1 + STEP * (weights - 1)), case.test)
    return Outcome(verdict, step, before - losses(fit(case.train, weights), case.test))


def report(outcomes: dict[str, list[Outcome]]) -> None:
    width = max(map(len, outcomes))
    print(f"\n{'case':<{width}}  refit improves all   yes   median p   first axis")
    for name, found in outcomes.items():
        improved, yes = (np.mean(v) for v in ([o.improved for o in found], [o.verdict.improvable for o in found]))
        p = np.median([o.verdict.p_value for o in found])
        axis = np.mean([o.first_axis for o in found])
        print(f"{name:<{width}}  {improved:18.0%}  {yes:4.0%}   {p:8.2g}   {axis:10.2f}")
    every = [o for found in outcomes.values() for o in found]
    truth = [o.improved for o in every]
    area = roc_auc_score(truth, [-o.verdict.p_value for o in every])
    papers_area = roc_auc_score(truth, [o.first_axis for o in every])
    agreement = np.mean([o.verdict.improvable == o.improved for o in every])
    papers_agreement = np.mean([(o.first_axis > 0.2) == o.improved for o in every])
    print(f"\n{len(every)} cases, a refit improved {np.mean(truth):.0%} of them")
    print(f"area under the ROC curve: verdict {area:.3f}, the paper's first axis {papers_area:.3f}")
    print(f"agreement: verdict {agreement:.0%}, the paper's criterion {papers_agreement:.0%}")
    gains = np.concatenate([o.verdict.held_out_gain * o.verdict.scale for o in every])
    for name, measured in (("small step", "after_step"), ("complete refit", "after_refit")):
        correlation = spearmanr(gains, np.concatenate([getattr(o, measured) for o in every])).statistic
        print(f"rank correlation of held-out gains with the measured drops of the losses, {name}: {correlation:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5, help="draws of each kind of case")
    parser.add_argument("--null", type=int, default=200, help="draws of data without wrong labels")
    parser.add_argument("--curvature", default="gauss_newton", choices=["gauss_newton", "ekfac"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    outcomes: dict[str, list[Outcome]] = {}
    for case in cases(options.repetitions):
        outcomes.setdefault(case.name, []).append(outcome(case, options.curvature))
    report(outcomes)
    alarms = [
        outcome(gaussians(0.0, 1_000 + seed), options.curvature, refit=False).verdict.improvable
        for seed in range(options.null)
    ]
    print(f"false alarms without wrong labels: {np.mean(alarms):.1%} of {options.null} at level {LEVEL:.0%}")


if __name__ == "__main__":
    main()
