"""What a candidate may know, and what it has to return."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from lightning_pareto.evaluation.outcome import Outcome
from lightning_pareto.influence.gradients import Forward
from lightning_pareto.influence.matrix import InfluenceMatrix
from lightning_pareto.influence.measures import read_outcome
from lightning_pareto.influence.passes import GradientPass

Proposed = Mapping[str, Tensor] | Tensor
"""New values of parameters or buffers by their qualified names, or weights of the training samples, (N,), for a fit."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """A fitted model, its training data, and the part of the validation data that a candidate may learn from.

    Attributes:
        module: the fitted module, on its device and in evaluation mode. A candidate may change its parameters, which
            are restored afterwards.
        train: a pass over the training samples.
        validation: a pass over the n known validation samples.
        category: category of each known sample, (n,), in [0, K).
        categories: their number, K.
        influence: influence of the training samples on the known samples. It also has the training labels, (N,).
        weights: weights of the training samples that raise the categories of the known samples, (N,), mean 1.
        seed: for anything random.

    Example:
        >>> def smaller_bias(evidence):  # a candidate of your own
        ...     name, bias = list(evidence.module.named_parameters())[-1]
        ...     return {name: 0.9 * bias.detach()}

        >>> def without_the_most_harmful(evidence):
        ...     total = torch.from_numpy(evidence.influence.total())
        ...     return (total > total.quantile(0.1)).double()  # weights for another fit

        With ``ParetoTuner(…, candidates=[smaller_bias, without_the_most_harmful])`` they take part in a search.
    """

    module: nn.Module
    train: GradientPass
    validation: GradientPass
    category: Tensor
    categories: int
    influence: InfluenceMatrix
    weights: Tensor
    seed: int = 0

    def of_known(self, stage: str, read: Callable[[Forward], Tensor]) -> Tensor:
        """Run the module on the known samples, all processes together, and put together what ``read`` returns.

        Args:
            stage: name for progress bars and errors.
            read: a function of the forward pass of B samples that returns (B, d).

        Returns:
            (n, d) in float64, on the CPU, the same on every process.
        """
        known = torch.tensor(self.validation.indices)
        shard = self.validation.shard

        def rows() -> Tensor:
            found = torch.zeros(0, 0, dtype=torch.float64)
            for indices, _, forward in replace(self.validation, differentiable=False)(stage):
                part = read(forward).detach().cpu().double()
                if not len(found):
                    found = torch.zeros(len(known), part.shape[1], dtype=torch.float64)
                found[torch.searchsorted(known, indices)] = part
            return found

        mine = self.validation.run(stage, rows)
        widths = torch.zeros(shard.count, dtype=torch.int64)
        widths[shard.index] = mine.shape[1]
        width = int(shard.sum(widths).max())
        return shard.sum(mine if mine.shape[1] else torch.zeros(len(known), width, dtype=torch.float64))

    def read(self) -> tuple[Tensor, Tensor]:
        """Logits, (n, C), and labels, (n,), of the known samples under the module's present parameters."""

        def both(forward: Forward) -> Tensor:
            return torch.cat([forward.logits.detach().double(), forward.targets[:, None].double()], dim=1)

        table = self.of_known("candidate", both)
        return table[:, :-1], table[:, -1].long()

    def outcome(self) -> Outcome:
        """Predictions of the known samples under the module's present parameters."""
        read = self.of_known("candidate", lambda forward: read_outcome(forward.logits, forward.targets)).numpy()
        names = self.influence.category_names
        return Outcome(self.category.numpy(), read[:, 1] > 0, read[:, 2], names, read[:, 0].astype(np.int64))


@runtime_checkable
class Candidate(Protocol):
    """A way to improve a fitted model.

    Example:
        >>> class Colder:
        ...     name = "half the last bias"
        ...
        ...     def propose(self, evidence):
        ...         name, bias = list(evidence.module.named_parameters())[-1]
        ...         return {name: 0.5 * bias}
        >>> isinstance(Colder(), Candidate)
        True
    """

    @property
    def name(self) -> str:
        """What it is called in results."""
        ...

    def propose(self, evidence: Evidence) -> Proposed:
        """Values that the fitted model gets, by name, or weights of the training samples, (N,), for another fit.

        An empty mapping if nothing better was found. With several processes, each of them calls it and must return the
        same.
        """
        ...


@dataclass(frozen=True)
class InTurn:
    """Two candidates, the second of which starts from what the first has made.

    Attributes:
        first: the first candidate.
        second: the second one.

    Example:
        >>> from lightning_pareto import HeadRefit, WeightedSteps
        >>> InTurn(WeightedSteps(), HeadRefit()).name
        'weighted steps, then last layer refitted'
    """

    first: Candidate
    second: Candidate

    @property
    def name(self) -> str:
        """What it is called in results."""
        return f"{self.first.name}, then {self.second.name}"

    def propose(self, evidence: Evidence) -> Proposed:
        """See :meth:`Candidate.propose`. Both must change the fitted model."""
        made = _values(self.first, evidence)
        evidence.module.load_state_dict(made, strict=False)
        return made | _values(self.second, evidence)


def _values(candidate: Candidate, evidence: Evidence) -> dict[str, Tensor]:
    found = candidate.propose(evidence)
    if isinstance(found, Tensor):
        raise TypeError(f"{candidate.name!r} proposes weights for a fit, so nothing can follow it or come before it")
    return dict(found)


Propose = Callable[[Evidence], Proposed]
"""A function that serves as a candidate."""


@dataclass(frozen=True)
class _Function:
    """A candidate from a function of the user's."""

    propose: Propose = field(repr=False)  # its address differs from run to run
    number: int = 1

    @property
    def name(self) -> str:
        name = getattr(self.propose, "__name__", type(self.propose).__name__).replace("_", " ")
        return name if self.number == 1 else f"{name} ({self.number})"


def as_candidates(given: Sequence[Candidate | Propose]) -> tuple[Candidate, ...]:
    """The candidates, also those that are functions, numbered if they share a name. A TypeError refuses others."""
    if not isinstance(given, Sequence):
        raise TypeError(f"candidates must be a list, candidates=[…], found {given!r:.80}")
    found: list[Candidate] = []
    functions = Counter[str]()
    for each in given:
        if isinstance(each, type):
            raise TypeError(f"candidates contain the class {each.__name__}: pass an instance, {each.__name__}()")
        if not isinstance(each, Candidate) and not callable(each):
            raise TypeError(
                f"a candidate has a name and propose(evidence), or is a function of the evidence, found {each!r:.80}"
            )
        if isinstance(each, Candidate):
            found.append(each)
        else:
            name = _Function(each).name
            functions[name] += 1
            found.append(_Function(each, functions[name]))
    return tuple(found)


def category_means(values: Tensor, category: Tensor, categories: int) -> Tensor:
    """Means of values, (n,), over each category that occurs among ``category``, (n,)."""
    count = torch.bincount(category, minlength=categories)
    sums = torch.zeros(categories, dtype=values.dtype).index_add(0, category, values)
    return sums[count > 0] / count[count > 0]
