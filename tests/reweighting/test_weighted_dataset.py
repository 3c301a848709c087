"""Weights carried by the samples of a batch."""

import copy
import pickle

import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_pareto import SampleWeights, WeightedDataset
from tests.integration._models import Dicts, Named, datasets

THREE = TensorDataset(torch.arange(3.0), torch.tensor([0, 1, 0]))
WEIGHTS = [0.5, 1.0, 1.5]


def test_default_collate_keeps_the_weights_of_tuples_and_dicts():
    (batch,) = DataLoader(WeightedDataset(THREE, WEIGHTS), batch_size=3)
    x, _y, weight = batch
    assert x.tolist() == [0, 1, 2]
    assert weight.dtype == torch.float32
    assert weight.tolist() == WEIGHTS
    (batch,) = DataLoader(WeightedDataset(Dicts(THREE), SampleWeights(WEIGHTS), key="w"), batch_size=3)
    assert set(batch) == {"features", "labels", "w"}
    assert batch["w"].tolist() == WEIGHTS


def test_custom_collate_functions_see_the_weights():
    def collate(samples):
        return {"x": [x for x, _, _ in samples], "weight": torch.stack([w for _, _, w in samples])}

    loader = DataLoader(WeightedDataset(THREE, WEIGHTS), batch_size=2, sampler=[2, 0], collate_fn=collate)
    assert next(iter(loader))["weight"].tolist() == [1.5, 0.5]


def test_batched_fetching_of_the_dataset_is_used():
    class Counting(TensorDataset):
        calls = 0

        def __getitems__(self, indices):
            self.calls += 1
            return [self[i] for i in indices]

    inner = Counting(*THREE.tensors)
    (batch,) = DataLoader(WeightedDataset(inner, WEIGHTS), batch_size=3)
    assert inner.calls == 1
    assert batch[2].tolist() == WEIGHTS


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_other_attributes_are_those_of_the_dataset(twin):
    weighted = twin(WeightedDataset(datasets()[0], torch.ones(240).numpy()))
    assert weighted.classes == Named.classes
    assert len(weighted) == 240
    assert len(Subset(weighted, [3, 4])[0]) == 3
    with pytest.raises(AttributeError, match="nothing"):
        _ = weighted.nothing


def test_invalid_samples_and_weights_are_rejected():
    with pytest.raises(ValueError, match="expected a training dataset of 2 samples, one per weight, found 3"):
        WeightedDataset(THREE, [1.0, 1.0])
    with pytest.raises(TypeError, match=r"found int\. Return \{"):
        WeightedDataset([1, 2], [1.0, 1.0])[0]
    with pytest.raises(ValueError, match="Choose another key"):
        WeightedDataset([{"weight": 1}], [1.0])[0]
