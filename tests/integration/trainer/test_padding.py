"""Where the padding of a distributed sampler begins."""

import pytest
from torch.utils.data import DataLoader, DistributedSampler

from lightning_pareto.integration.trainer.padding import samples_before_padding


@pytest.mark.parametrize("samples", [61, 60, 1])
@pytest.mark.parametrize("replicas", [2, 7])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_samples_before_padding_are_those_of_the_dataset(samples, replicas, drop_last, shuffle):
    seen = []
    for rank in range(replicas):
        sampler = DistributedSampler(range(samples), replicas, rank, shuffle=shuffle, drop_last=drop_last)
        loader = DataLoader(range(samples), batch_size=4, sampler=sampler)
        drawn = [int(i) for batch in loader for i in batch]
        seen += drawn[: samples_before_padding(loader)]
    assert len(seen) == len(set(seen)) == (samples // replicas * replicas if drop_last else samples)


class Backwards(DistributedSampler):
    """Deals in another order."""

    def __iter__(self):
        return reversed(list(super().__iter__()))


def test_padding_of_other_orders_is_unknown():
    assert samples_before_padding(DataLoader(range(5))) is None
    assert samples_before_padding(DataLoader(range(5), sampler=Backwards(range(5), 2, 1))) is None
    assert samples_before_padding([1]) is None
