"""What leaves the frozen layers is computed once, kept as far as memory goes, and is what a pass gives."""

from contextlib import nullcontext

import pytest
import torch

from redline.engine.trunk import LowerStates, Row, StateCache, Trunk, forks_of
from redline.engine.views import Split
from tiny_models import CONFIGS, random_model

SEQUENCES = [torch.arange(5, 5 + size) for size in (9, 4, 12, 1)]


def rows():
    return [Row(ids, len(ids), len(ids)) for ids in SEQUENCES]


def test_states_are_those_that_a_pass_begins_with():
    lm, trunk = random_model(CONFIGS["llama"]), Trunk(3)
    trunk.keep(1)
    trunk.keep(0)
    assert trunk.layers == {1, 3}
    states = trunk.states(lm, SEQUENCES)
    for layer in (1, 3):
        for ids, kept in zip(SEQUENCES, states.at(layer), strict=True):
            torch.testing.assert_close(kept, Split(lm, layer).lower(ids[None])[0], rtol=1e-4, atol=1e-4)
    assert states.nbytes == 2 * sum(len(ids) for ids in SEQUENCES) * 32 * 4
    states.clear()
    assert states.layers == []


def test_nothing_above_the_trunk_is_kept():
    with pytest.raises(ValueError, match="layer 3 lies above a trunk of 2 layers"):
        Trunk(2).keep(3)
    assert Trunk(0).layers == set()
    with pytest.raises(KeyError):
        LowerStates().at(1)


@pytest.mark.parametrize("limit", [10**9, 2000, 0])
def test_a_cache_of_any_size_gives_the_same(limit):
    split, told = Split(random_model(CONFIGS["llama"]), 2), []
    cache = StateCache(split, torch.device("cpu"), 20, nullcontext, limit)
    read = rows()
    cache.fill([[row] for row in read], told.append)
    assert cache.complete == (limit == 10**9) == (sum(told) == len(read))
    assert cache.bytes <= limit
    assert sum(row.states is None for row in read) == {10**9: 0, 2000: 2, 0: 4}[limit]
    for ids, states in zip(SEQUENCES, cache.inputs(read), strict=True):
        torch.testing.assert_close(states, split.lower(ids[None])[0], rtol=1e-4, atol=1e-4)


def test_a_model_that_runs_whole_reads_token_ids():
    cache = StateCache(Split(random_model(CONFIGS["llama"]), 0), torch.device("cpu"), 20, nullcontext)
    read = rows()
    cache.fill([read], lambda _: None)
    assert all(torch.equal(*pair) for pair in zip(cache.inputs(read), SEQUENCES, strict=True))


def test_only_rows_that_fork_need_a_mask():
    plain, forking = rows()[0], Row(torch.arange(9), 3, 6)
    assert forks_of([plain], torch.device("cpu")) is None
    assert forks_of([plain, forking], torch.device("cpu")).tolist() == [[9, 9], [3, 6]]
