"""From how many tokens on a model computes otherwise: what a trial before training has to go past."""

from typing import Any

from redline.types import Config, JsonObject

# in the names of a configuration's numbers of tokens
WINDOWS = ("window", "chunk", "block_size", "original_max_position")
INDEX = ("index_topk", "indexer_budget")  # so many keys are chosen by an index, once there are more


def limits(config: Config) -> list[int]:
    """The windows, chunks and indices that a model's configuration names, in tokens."""
    text = config.get_text_config().to_dict()
    return [
        value
        for name, value in _flat(text)
        if any(part in name for part in (*WINDOWS, *INDEX)) and type(value) is int and value > 0
    ]


def past(limit: int) -> int:
    """Tokens that show what a limit does: the first few behind it hardly differ."""
    return limit + min(max(limit, 8), 64)


def _flat(config: JsonObject) -> list[tuple[str, Any]]:
    """The names and values of a configuration, those of its sections among them."""
    found = []
    for name, value in config.items():
        found += _flat(value) if isinstance(value, dict) else [(str(name), value)]
    return found
