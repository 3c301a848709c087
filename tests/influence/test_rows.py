"""Row i of the scores belongs to sample i, whatever the loader does, or the loader is refused."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate, get_worker_info

from lightning_pareto import estimate_influence
from lightning_pareto.data.loaders import read_batches, with_sampler
from lightning_pareto.influence.plan import LOOPED
from tests._asserts import assert_near
from tests._oracles import flat_sample_gradients
from tests._tolerances import RELATIVE

X, Y = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
DATA = TensorDataset(X, Y)


def scores(train, val=None):
    torch.manual_seed(0)
    val = DataLoader(DATA, 20) if val is None else val
    return estimate_influence(nn.Linear(3, 3), train, val, curvature="identity").scores


def by_first_value(samples):
    """Sorts a batch, as a collate function for texts sorts by length."""
    return default_collate(sorted(samples, key=lambda sample: float(sample[0][0])))


def test_collate_function_that_sorts_is_read_one_by_one():
    expected, sorting = scores(DataLoader(DATA, 20)), DataLoader(DATA, 20, collate_fn=by_first_value)
    for train, val, name in ((sorting, None, "training"), (DataLoader(DATA, 20), sorting, "validation")):
        with pytest.warns(UserWarning, match=f"the collate function of the {name} loader changes the order"):
            assert_near(scores(train, val), expected, RELATIVE[torch.float32])


def padded(samples):
    """Pads texts."""
    texts, labels = zip(*samples, strict=True)
    return nn.utils.rnn.pad_sequence(texts, batch_first=True), torch.stack(labels)


def by_length(samples):
    """Sorts texts by their length and pads them, as for packed sequences."""
    return padded(sorted(samples, key=lambda sample: -len(sample[0])))


class Sums(nn.Module):
    """Reads texts of any length."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 2)

    def forward(self, x):
        return self.layer(x.sum(1, keepdim=True))


def test_collate_function_that_sorts_is_found_though_all_compared_labels_are_alike():
    generator, rare = torch.Generator().manual_seed(0), (torch.arange(200) % 40 == 7).long()
    data = [(torch.rand(3 + i % 5, generator=generator), label) for i, label in enumerate(rare)]
    plain, model = DataLoader(data, 20, collate_fn=padded), Sums()
    expected = estimate_influence(model, plain, plain, curvature="identity").scores
    with pytest.warns(UserWarning, match="the collate function of the training loader changes the order"):
        found = estimate_influence(model, DataLoader(data, 20, collate_fn=by_length), plain, curvature="identity")
    assert_near(found.scores, expected, RELATIVE[torch.float32])


def test_samples_of_different_sizes_are_read_one_by_one_as_the_loader_does():
    generator = torch.Generator().manual_seed(0)
    data = [(torch.rand(3 + i % 5, generator=generator), torch.tensor(i % 2)) for i in range(40)]
    model = Sums()
    expected = estimate_influence(model, *[DataLoader(data, 8, collate_fn=padded)] * 2, curvature="identity")
    found = estimate_influence(model, *[DataLoader(data, 1)] * 2, curvature="identity")
    assert_near(found.scores, expected.scores, RELATIVE[torch.float32])
    gradients = torch.stack([grad_of(model, x, y) for x, y in data])
    labels = torch.tensor([int(y) for _, y in data])
    expected = gradients @ torch.stack([gradients[labels == k].mean(0) for k in range(2)]).T
    assert_near(found.scores, expected, RELATIVE[torch.float32])


def grad_of(model, x, y):
    gradients = torch.autograd.grad(nn.functional.cross_entropy(model(x[None]), y[None]), list(model.parameters()))
    return torch.cat([each.flatten() for each in gradients])


class SortsTexts(nn.Module):
    """Sorts a batch by length for a recurrent layer, and sorts the result back."""

    def __init__(self):
        super().__init__()
        self.table, self.recurrent, self.head = nn.Embedding(20, 4), nn.GRU(4, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, tokens):
        lengths, order = (tokens > 0).sum(1).sort(descending=True)
        packed = nn.utils.rnn.pack_padded_sequence(self.table(tokens[order]), lengths, batch_first=True)
        return self.head(self.recurrent(packed)[1][-1])[order.argsort()]


@pytest.mark.parametrize("seed", range(4))
def test_layers_that_see_samples_in_another_order_are_found_though_most_batches_are_sorted(seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 20, (120, 6), generator=generator)
    tokens[torch.randperm(120, generator=generator)[:10], 4:] = 0  # only these are shorter
    data, labels = TensorDataset(tokens, torch.arange(120) % 3), torch.arange(120) % 3
    torch.manual_seed(0)
    module = SortsTexts().double()
    with pytest.warns(UserWarning, match="no fast per-sample gradient"):
        found = estimate_influence(module, *[DataLoader(data, 16)] * 2, curvature="identity")
    assert found.metadata["parameters"]["table.weight"] == found.metadata["parameters"]["head.bias"] == LOOPED
    gradients = flat_sample_gradients(module, tokens, labels)
    expected = gradients @ torch.stack([gradients[labels == k].mean(0) for k in range(3)]).T
    assert_near(found.scores, expected, RELATIVE[torch.float32])


class Backwards(DataLoader):
    """Yields the samples of every batch backwards."""

    def __iter__(self):
        return ((x.flip(0), y.flip(0)) for x, y in super().__iter__())


class Doubled(DataLoader):
    """Changes the inputs, but no label."""

    def __iter__(self):
        return ((2 * x, y) for x, y in super().__iter__())


class Endless(DataLoader):
    """Begins again at its end."""

    def __iter__(self):
        while True:
            yield from super().__iter__()


class Counted(DataLoader):
    """Does nothing that matters."""

    def __iter__(self):
        self.count = getattr(self, "count", 0) + 1
        return super().__iter__()


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Backwards, "has the label"), (Doubled, "is a Doubled that yields"), (Endless, "is a Endless that yields")],
)
def test_loader_class_that_yields_other_samples_is_refused(kind, message):
    with pytest.raises(ValueError, match=message):
        scores(kind(DATA, 20))


def test_loader_class_that_yields_the_same_is_read():
    assert_near(scores(Counted(DATA, 20)), scores(DataLoader(DATA, 20)), 0)


class RandomLabels(Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, index):
        return X[index], int(torch.randint(3, ()))


def test_labels_that_change_from_read_to_read_are_refused():
    with pytest.raises(ValueError, match="in one read and"):
        scores(DataLoader(RandomLabels(), 20))


def test_label_that_changes_after_the_check_is_found():
    """Only sample 59 does, which the check before the passes does not read."""

    class Late(RandomLabels):
        reads = 0

        def __getitem__(self, index):
            Late.reads += index == 59
            return X[index], int(Y[index]) if index < 59 else Late.reads % 3

    loaders = DataLoader(Late(), 20), DataLoader(TensorDataset(torch.randn(60, 3), Y), 20)
    with pytest.raises(ValueError, match="training sample 59 has the label"):
        estimate_influence(nn.Linear(3, 3), *loaders)


class InWorkers(Dataset):
    """Can be read in a worker only, as if it opened a file that processes must not share."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        assert get_worker_info() is not None, "read in the main process"
        return self.data[index]


def test_samples_are_read_in_workers_where_the_user_has_workers():
    loader = DataLoader(InWorkers(DATA), 20, num_workers=2, persistent_workers=True)
    assert_near(scores(loader, loader), scores(DataLoader(DATA, 20)), 0)
    assert loader._iterator is None, "the user's own workers are not touched"


def test_single_batches_draw_no_random_number():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    (x, y), (z, _) = read_batches(DataLoader(DATA, 20, shuffle=True), [[5, 2], [7]])
    assert y.tolist() == [2, 2]
    assert torch.equal(x, X[[5, 2]])
    assert torch.equal(z, X[7:8])
    assert torch.equal(torch.rand(2), expected)


def test_copy_of_a_loader_begins_at_its_beginning_and_keeps_the_order():
    loader = DataLoader(DATA, 20, num_workers=1)
    loader.in_order = False
    loader.next_iter_state = {"position": 2}  # as torchdata's StatefulDataLoader after load_state_dict()
    twin = with_sampler(loader, range(60), drop_last=False, generator=None)
    assert (twin.in_order, twin.next_iter_state) == (True, None)
    assert (loader.in_order, loader.next_iter_state) == (False, {"position": 2})


def test_collate_function_that_drops_a_sample_later_is_refused():
    calls = []

    def collate(samples):
        calls.append(len(samples))
        return default_collate(samples[: -1 if len(calls) > 54 else None])

    with pytest.raises(ValueError, match="19 labels for 20 samples"):
        scores(DataLoader(DATA, 20, collate_fn=collate), DataLoader(DATA, 20, collate_fn=collate))
    assert len(calls) == 55, "the checks before the passes take fewer calls"
