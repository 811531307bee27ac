"""The four reading orders, written out by hand, and the merge that undoes them."""

import torch

from mambaseg.ops.cross_scan import cross_merge, cross_scan


def test_the_orders_are_rows_columns_and_both_backwards() -> None:
    features = torch.tensor([[0, 1, 2], [3, 4, 5]]).view(1, 1, 2, 3)
    assert cross_scan(features)[0, :, 0].tolist() == [
        [0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5], [5, 4, 3, 2, 1, 0], [5, 2, 4, 1, 3, 0]]


def test_each_sequence_goes_back_to_where_it_was_read() -> None:
    features = torch.randn(2, 3, 4, 5)
    sequences = cross_scan(features)
    for direction in range(4):
        alone = torch.zeros_like(sequences)
        alone[:, direction] = sequences[:, direction]
        assert torch.equal(cross_merge(alone, 4, 5), features)


def test_merging_is_the_adjoint_of_scanning() -> None:
    features, sequences = torch.randn(2, 3, 4, 5).double(), torch.randn(2, 4, 3, 20).double()
    there = (cross_scan(features) * sequences).sum()
    torch.testing.assert_close((features * cross_merge(sequences, 4, 5)).sum(), there)
