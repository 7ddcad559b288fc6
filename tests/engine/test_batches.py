"""Packing, padding and the place in the data."""

from hypothesis import given
from hypothesis import strategies as st

from redline.engine.batching import draw_rows, epoch_order, pack


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_packing_keeps_every_row_once_and_the_budget(lengths, budget):
    groups = pack(lengths, budget)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or max(lengths[row] for row in group) * len(group) <= budget


@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 9), st.integers(0, 5))
def test_batches_walk_through_whole_epochs(size, batch, steps, seed):
    walked = [row for step in range(steps) for row in draw_rows(size, batch, step, seed)]
    for epoch in range(len(walked) // size):
        assert sorted(walked[epoch * size : (epoch + 1) * size]) == list(range(size))
        assert walked[epoch * size : (epoch + 1) * size] == epoch_order(size, seed, epoch)
