"""Is influence computed of the loss that is trained?"""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_pareto import ClassificationTask, ParetoCallback, ReweightedDataModule, analyse
from tests.integration._models import CLASSES, Data, Plain, trainer


class Noisy(Plain):
    """Has dropout, batch norm and a functional dropout, so its loss in training differs from that in evaluation."""

    def __init__(self, loss=None):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))
        self.loss = F.cross_entropy if loss is None else loss

    def forward(self, x):
        return F.dropout(self.network(x), 0.3, self.training)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self(x), y)


def warned(tmp_path, model, task=None, data=None, about="another loss than", **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callback = ParetoCallback(verbose=False, folds=3, curvature="identity", task=task)
        trainer(tmp_path, callback, max_epochs=3, **options).fit(model, datamodule=data or Data())
    return [str(w.message) for w in caught if about in str(w.message)]


def weighted(logits, labels):
    return F.cross_entropy(logits, labels, weight=torch.tensor([1.0, 1.0, 1.0, 10.0]))


def smooth(logits, labels, reduction="mean"):
    return F.cross_entropy(logits, labels, label_smoothing=0.2, reduction=reduction)


def summed(logits, labels):
    return F.cross_entropy(logits, labels, reduction="sum")


def squared(logits, labels):
    return F.mse_loss(logits, F.one_hot(labels, CLASSES).float())


def mildly_weighted(logits, labels):
    return F.cross_entropy(logits, labels, weight=torch.tensor([1.0, 1.0, 1.0, 1.3]))


@pytest.mark.parametrize("loss", [weighted, smooth, squared, mildly_weighted])
def test_another_loss_is_told(tmp_path, loss):
    assert len(warned(tmp_path, Noisy(loss))) == 1


def test_another_loss_is_told_after_the_first_step(tmp_path):
    class Stops(Noisy):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            raise KeyError("the first step has ended")

    with pytest.warns(UserWarning, match=r"another loss.*ClassificationTask\(loss="), pytest.raises(KeyError):
        trainer(tmp_path, ParetoCallback(verbose=False)).fit(Stops(squared), datamodule=Data())


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 3}, {"precision": "bf16-mixed"}])
def test_same_loss_is_not(tmp_path, options):
    assert not warned(tmp_path, Noisy(), **options)
    assert not warned(tmp_path, Noisy(summed), **options), "a factor changes no order"


def test_log_probabilities_with_their_own_loss_are_not(tmp_path):
    class LogProbabilities(Noisy):
        def forward(self, x):
            return super().forward(x).log_softmax(dim=1)

    assert not warned(tmp_path, LogProbabilities(F.nll_loss))
    assert len(warned(tmp_path, LogProbabilities(smooth))) == 1


def test_described_loss_is_not(tmp_path):
    task = ClassificationTask(loss=lambda logits, labels: smooth(logits, labels, reduction="none"))
    assert not warned(tmp_path, Noisy(smooth), task)


class Zero(Plain):
    """Has equal logits at first, with which a weighted mean equals a plain one."""

    def __init__(self, loss):
        super().__init__()
        nn.init.zeros_(self.network[-1].weight)
        nn.init.zeros_(self.network[-1].bias)
        self.loss = loss

    def training_step(self, batch, batch_idx):
        return self.loss(self.network(batch[0]), batch[1])


def test_class_weights_are_told_while_all_logits_are_equal(tmp_path):
    assert len(warned(tmp_path, Zero(weighted), max_steps=1)) == 1


def test_class_weights_that_the_task_has_are_not_told(tmp_path):
    """``training_step`` divides by the sum of the weights, the same for all samples of a batch."""
    weight = torch.tensor([1.0, 1.0, 1.0, 10.0])
    task = ClassificationTask(loss=lambda logits, labels: F.cross_entropy(logits, labels, weight, reduction="none"))
    assert not warned(tmp_path, Zero(weighted), task)


@pytest.mark.parametrize("used", [True, False])
def test_weights_in_the_loss_are_told_only_if_the_step_ignores_them(tmp_path, used):
    class Weighs(Plain):
        def training_step(self, batch, batch_idx):
            x, y, weight = batch
            return ((weight if used else 1) * F.cross_entropy(self(x), y, reduction="none")).mean()

    task = ClassificationTask(logits=lambda module, batch: module(batch[0]), targets=lambda batch: batch[1])
    data = ReweightedDataModule(Data(), torch.linspace(0.2, 1.8, 240).numpy(), apply="loss")
    assert len(warned(tmp_path, Weighs(), task, data)) == (not used)


class Manual(Plain):
    """Optimises by itself."""

    def __init__(self, loss, by_lightning):
        super().__init__()
        self.automatic_optimization = False
        self.loss, self.by_lightning = loss, by_lightning

    def training_step(self, batch, batch_idx):
        optimizer, loss = self.optimizers(), self.loss(self(batch[0]), batch[1])
        optimizer.zero_grad()
        self.manual_backward(loss) if self.by_lightning else loss.backward()
        optimizer.step()


def test_loss_of_manual_optimisation_is_compared_or_it_is_said_that_it_is_not(tmp_path):
    assert not warned(tmp_path, Manual(F.cross_entropy, True))
    assert len(warned(tmp_path, Manual(smooth, True))) == 1
    about = "does not call manual_backward, so its loss was not compared"
    assert len(warned(tmp_path, Manual(smooth, False), about=about)) == 1


class Overwriting(torch.autograd.Function):
    """Cross-entropy that keeps its gradient and scales it in place, so that it allows one backward pass only."""

    @staticmethod
    def forward(ctx, logits, labels):
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            loss = F.cross_entropy(leaf, labels)
            ctx.save_for_backward(*torch.autograd.grad(loss, leaf))
        return loss.detach()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.saved_tensors[0].mul_(gradient), None


@pytest.mark.parametrize("loss", [F.cross_entropy, Overwriting.apply])
def test_comparison_leaves_the_gradients_as_they_are(tmp_path, loss):
    states = []
    for callbacks in ([], [ParetoCallback(verbose=False)]):
        torch.manual_seed(0)
        model = Zero(loss)
        fit = trainer(tmp_path, *callbacks, accumulate_grad_batches=2, num_sanity_val_steps=0)
        fit.fit(model, datamodule=Data())
        states.append(model.network[-1].weight.detach().clone())
    assert torch.equal(*states)


def test_no_hook_is_left_after_an_error(tmp_path):
    class Fails(Plain):
        def training_step(self, batch, batch_idx):
            raise KeyError("the first step")

    with pytest.raises(KeyError):
        trainer(tmp_path, ParetoCallback(verbose=False)).fit(Fails(), datamodule=Data())
    assert not torch.nn.modules.module._global_forward_hooks


class Counts(Noisy):
    """Logs, and counts its steps and samples."""

    steps = 0

    def __init__(self, loss=None):
        super().__init__(loss)
        self.register_buffer("seen", torch.zeros(()))

    def training_step(self, batch, batch_idx):
        self.steps += 1
        self.seen += len(batch[1])
        self.log("loss", loss := super().training_step(batch, batch_idx))
        return loss


def test_analysis_without_a_fit_compares_losses_and_leaves_the_model_as_it_is(tmp_path):
    model = Counts().eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    analyse(model, Data(), trainer(tmp_path), folds=3, curvature="identity", verbose=False)
    with pytest.warns(UserWarning, match="another loss than"):
        analyse(Counts(weighted), Data(), trainer(tmp_path), folds=3, curvature="identity", verbose=False)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert model.steps == 0


def test_analysis_says_if_it_cannot_compare(tmp_path):
    class Needs(Plain):
        def training_step(self, batch, batch_idx):
            return self.made_when_a_fit_starts

    for model in (Needs(), Manual(smooth, True)):
        with pytest.warns(UserWarning, match="so its loss was not compared"):
            analyse(model, Data(), trainer(tmp_path), folds=3, curvature="identity", verbose=False)


def test_fit_is_the_same_to_the_bit_as_without_the_callback(tmp_path):
    states = []
    for callbacks in ([], [ParetoCallback(verbose=False)]):
        torch.manual_seed(0)
        model = Noisy()
        trainer(tmp_path, *callbacks, max_epochs=2, num_sanity_val_steps=0).fit(model, datamodule=Data())
        states.append(model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


class Caches(Noisy):
    """Keeps a buffer that grows with what forward has seen, as caches of positions do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("cache", torch.zeros(1), persistent=False)

    def forward(self, x):
        self.cache = torch.zeros(len(self.cache) + 1)
        return super().forward(x)


def test_buffers_that_forward_replaces_do_no_harm(tmp_path):
    assert not warned(tmp_path, Caches())


class Normalises(Plain):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self((x - 3) / 0.5), y)


class Perturbs(Plain):
    def __init__(self):
        super().__init__()
        self.network = nn.Linear(2, 4)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x + 1.5 * torch.randn_like(x)), y)


class Tosses(Noisy):
    """Draws a number that changes no input, but the numbers of dropout."""

    def training_step(self, batch, batch_idx):
        torch.rand(1)
        return super().training_step(batch, batch_idx)


def test_dropout_that_draws_other_numbers_is_not_told(tmp_path):
    assert not warned(tmp_path, Tosses())


@pytest.mark.parametrize("kind", [Normalises, Perturbs])
def test_step_that_changes_the_inputs_is_told(tmp_path, kind):
    assert len(warned(tmp_path, kind(), about="since the step changes the inputs")) == 1
    with pytest.warns(UserWarning, match="its logits differ by"):
        analyse(kind(), Data(), trainer=trainer(tmp_path), verbose=False, folds=3)


class Pulls(Noisy):
    """Has an auxiliary loss that does not go through the logits."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + 10 * self.network[0].weight.square().sum()


def test_part_of_the_loss_that_does_not_come_from_the_logits_is_told(tmp_path):
    assert len(warned(tmp_path, Pulls(), about="are not in the loss of the analysis")) == 1


class OtherOutputs(Noisy):
    """Returns something else in training, which the task cannot read."""

    def forward(self, x):
        return (super().forward(x), x) if self.training else super().forward(x)

    def training_step(self, batch, batch_idx):
        return weighted(self(batch[0])[0], batch[1])


def test_loss_that_is_never_compared_is_told(tmp_path):
    assert len(warned(tmp_path, OtherOutputs(), about="its loss was not compared")) == 1


class Careless(Plain):
    """Changes its inputs, a counter and what it remembers in every forward pass."""

    def __init__(self):
        super().__init__()
        self.calls, self.last = 0, None

    def forward(self, x):
        self.calls += 1
        before, self.last = self.last, x.mean().detach()
        return self.network(x.mul_(0.5)) + 0.01 * (self.calls + (0.0 if before is None else before))


def test_comparison_leaves_batches_counters_and_kept_tensors_as_they_were(tmp_path):
    weights = []
    for callbacks in ([], [ParetoCallback(verbose=False, checkpoint="last")]):
        torch.manual_seed(0)
        model, data = Careless(), Data()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer(tmp_path, *callbacks, num_sanity_val_steps=0).fit(model, datamodule=data)
        weights.append(model.network[0].weight)
    assert torch.equal(*weights)
