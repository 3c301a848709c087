"""Slow but obvious versions of what the package computes fast."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


def sample_gradient_loop(module, x, y, names=None):
    """Gradient of every sample's cross-entropy by one backward pass each, {parameter name: (B, *shape)}."""
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad and (names is None or n in names)}
    rows = []
    for i in range(len(x)):
        loss = F.cross_entropy(module(x[i : i + 1]), y[i : i + 1])
        rows.append(torch.autograd.grad(loss, list(parameters.values()), allow_unused=True))
    return {
        name: torch.stack([torch.zeros_like(p) if g is None else g for g in column])
        for (name, p), column in zip(parameters.items(), zip(*rows, strict=True), strict=True)
    }


def flat_sample_gradients(module, x, y):
    """Per-sample gradients as one matrix, (B, P), with the parameters in the order of named_parameters."""
    return torch.cat([g.flatten(1) for g in sample_gradient_loop(module, x, y).values()], dim=1)


def exact_hessian(module, x, y):
    """Hessian of the mean cross-entropy over all parameters, (P, P)."""
    parameters = dict(module.named_parameters())
    shapes = [p.shape for p in parameters.values()]
    flat = torch.cat([p.detach().flatten() for p in parameters.values()])

    def loss(vector):
        parts = vector.split([shape.numel() for shape in shapes])
        values = {n: part.reshape(s) for n, part, s in zip(parameters, parts, shapes, strict=True)}
        return F.cross_entropy(torch.func.functional_call(module, values, (x,)), y)

    return torch.func.hessian(loss)(flat)


def exact_influence(module, x, y, x_val, y_val, classes, damping):
    """Influence P from the exact Hessian, damped by a share of its mean eigenvalue, (N, K)."""
    hessian = exact_hessian(module, x, y)
    damped = hessian + damping * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=hessian.dtype)
    validation = flat_sample_gradients(module, x_val, y_val)
    v = torch.stack([validation[y_val == k].mean(dim=0) for k in range(classes)])
    return (flat_sample_gradients(module, x, y) @ torch.linalg.solve(damped, v.T)).numpy()


def fit_logistic(x, y, classes, weights=None, l2=1e-4):
    """Fit logistic regression to its optimum, in float64."""
    module = nn.Linear(x.shape[1], classes, dtype=torch.float64)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    weights = torch.ones(len(y), dtype=torch.float64) if weights is None else torch.as_tensor(weights)
    optimiser = torch.optim.LBFGS(
        module.parameters(), max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = (weights * F.cross_entropy(module(x), y, reduction="none")).sum() / len(y)
        loss = loss + l2 * sum(p.square().sum() for p in module.parameters())
        loss.backward()
        return loss

    optimiser.step(closure)
    for p in module.parameters():
        p.grad = None
    return module


@torch.no_grad()
def class_losses(module, x, y, classes):
    """Mean cross-entropy of every class, (K,)."""
    losses = F.cross_entropy(module(x), y, reduction="none")
    return np.array([losses[y == k].mean().item() for k in range(classes)])


def loader(x, y, **options):
    return DataLoader(TensorDataset(x, y), **{"batch_size": 64, **options})


def loaders_of_one_set(x, y, **options):
    """A training loader, and a validation loader of the same dataset."""
    train = loader(x, y, **options)
    return train, DataLoader(train.dataset, 64)
