"""What datasets tell of their labels without being read."""

import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from lightning_pareto.data.labels import fingerprint_of_labels, first_label_out_of_range, stored_labels

LABELS = torch.tensor([2, 0, 1, 1, 2])
WHOLE = TensorDataset(torch.zeros(5), LABELS)


class Unlabelled(list):
    """Has its labels in its samples only."""


def test_parts_have_the_labels_of_their_samples():
    part = Subset(WHOLE, [4, 2, 1])
    assert stored_labels(part).tolist() == [2, 1, 0]
    assert stored_labels(Subset(part, [1])).tolist() == [1]
    assert stored_labels(ConcatDataset([part, WHOLE])).tolist() == [2, 1, 0, 2, 0, 1, 1, 2]
    assert first_label_out_of_range(part, 2) == 0
    assert first_label_out_of_range(part, 3) is None


def test_labels_of_some_samples_are_none():
    assert stored_labels(ConcatDataset([WHOLE, Unlabelled([(0.0, 1)])])) is None
    assert stored_labels(Subset(Unlabelled([(0.0, 1)]), [0])) is None


def test_another_order_is_another_dataset():
    names = {fingerprint_of_labels(Subset(WHOLE, order)) for order in ([0, 1, 2], [1, 0, 2], [0, 1], [3, 1, 2])}
    assert len(names) == 4
    assert fingerprint_of_labels(Subset(WHOLE, range(5))) == fingerprint_of_labels(WHOLE)
