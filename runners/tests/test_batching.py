"""Minibatches hold every row once, in an order that depends on the seed and the epoch alone."""

import torch
from support import CPU

from finegrain_trainer.batching import collate, epoch_batches, length_sorted, unpack

LENGTHS = [(7 * i) % 50 + 5 for i in range(203)]


def test_every_epoch_holds_every_row_once():
    for epoch in range(3):
        batches = epoch_batches(LENGTHS, 8, seed=1, epoch=epoch)
        assert sorted(row for batch in batches for row in batch) == list(range(203))
        assert len(batches) == 26
        assert max(map(len, batches)) == 8


def test_the_order_is_a_function_of_seed_and_epoch():
    assert epoch_batches(LENGTHS, 8, 1, 0) == epoch_batches(LENGTHS, 8, 1, 0)
    assert epoch_batches(LENGTHS, 8, 1, 0) != epoch_batches(LENGTHS, 8, 1, 1)
    assert epoch_batches(LENGTHS, 8, 1, 0) != epoch_batches(LENGTHS, 8, 2, 0)


def test_rows_of_like_length_stand_together_in_no_order_of_length():
    batches = epoch_batches(LENGTHS, 8, seed=1, epoch=0)
    padding = sum(max(LENGTHS[r] for r in batch) - LENGTHS[row] for batch in batches for row in batch)
    assert padding < 0.05 * sum(LENGTHS)
    first_lengths = [LENGTHS[batch[0]] for batch in batches]
    assert first_lengths not in (sorted(first_lengths), sorted(first_lengths, reverse=True))


def test_sorted_batches_begin_with_the_longest_rows():
    batches = length_sorted(LENGTHS, 8)
    assert sorted(row for batch in batches for row in batch) == list(range(203))
    assert LENGTHS[batches[0][0]] == max(LENGTHS)


def test_collate_marks_the_response_and_unpack_puts_packed_tokens_back():
    batch = collate([[1, 2], [3]], [[10, 11, 12], [20]], CPU)
    assert batch.ids.tolist() == [[1, 2, 10, 11, 12], [3, 20, 0, 0, 0]]
    assert batch.ids[batch.is_response].tolist() == [10, 11, 12, 20]
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert unpack(batch.ids[batch.is_response], mask).tolist() == [[10, 11, 12], [20, 0, 0]]
