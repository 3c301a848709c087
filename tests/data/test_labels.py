"""Labels that datasets store apart from their samples."""

import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from lightning_pareto.data.labels import (
    fingerprint_of_items,
    fingerprint_of_labels,
    first_label_out_of_range,
    stored_labels,
)

LABELS = torch.tensor([2, 0, 1, 1, 2])
WHOLE = TensorDataset(torch.zeros(5), LABELS)


class Unlabelled(list):
    """Stores its labels only inside its samples."""


def test_subsets_and_concatenations_have_the_labels_of_their_samples():
    part = Subset(WHOLE, [4, 2, 1])
    assert stored_labels(part).tolist() == [2, 1, 0]
    assert stored_labels(Subset(part, [1])).tolist() == [1]
    assert stored_labels(ConcatDataset([part, WHOLE])).tolist() == [2, 1, 0, 2, 0, 1, 1, 2]
    assert first_label_out_of_range(part, 2) == 0
    assert first_label_out_of_range(part, 3) is None


def test_partly_stored_labels_count_as_none():
    assert stored_labels(ConcatDataset([WHOLE, Unlabelled([(0.0, 1)])])) is None
    assert stored_labels(Subset(Unlabelled([(0.0, 1)]), [0])) is None


def test_fingerprint_depends_on_the_order():
    fingerprints = {fingerprint_of_labels(Subset(WHOLE, order)) for order in ([0, 1, 2], [1, 0, 2], [0, 1], [3, 1, 2])}
    assert len(fingerprints) == 4
    assert fingerprint_of_labels(Subset(WHOLE, range(5))) == fingerprint_of_labels(WHOLE)


def digest(items):
    return fingerprint_of_items(DataLoader(items, 2))


def test_items_are_told_apart_by_their_integers():
    items = Unlabelled((torch.rand(2), int(label)) for label in LABELS)
    others = Unlabelled((torch.rand(2), label) for label in LABELS)
    assert digest(items) == digest(others) is not None, "inputs may be augmented"
    assert digest(items) != digest(items[::-1])
    assert digest([{"x": 0.5, "y": int(label)} for label in LABELS]) == digest(items)
    assert digest([torch.rand(2) for _ in LABELS]) is None, "there is no integer"


def test_items_that_change_from_read_to_read_have_no_digest():
    class Changing(Unlabelled):
        def __getitem__(self, index):
            return 0.5, int(torch.randint(1000, ()))

    assert digest(Changing([0] * 5)) is None
