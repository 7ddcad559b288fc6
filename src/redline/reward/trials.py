"""Trial passes of a reward model's backbone, before anything is trained on it: what does a token see, and do
rows that are computed together stay apart?"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from redline.engine.limits import limits, past
from redline.engine.views import FEWEST, TRIED
from redline.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# what a backbone raises that does not take what it is given
CANNOT = (TypeError, AttributeError, IndexError, KeyError, ValueError, AssertionError, RuntimeError)


def tried(model: "PreTrainedModel", trial: Callable[["PreTrainedModel"], bool]) -> bool:
    """What a trial pass says. Raises UserError where the model takes no plain token ids, or not in rows."""
    try:
        return trial(model)
    except torch.OutOfMemoryError:
        raise
    except CANNOT as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{type(model).__name__} does not run on rows of token ids alone ({type(error).__name__}: "
            f"{reason}). Choose another backbone for the reward model."
        ) from error


@torch.no_grad()
def takes_padding(model: "PreTrainedModel") -> bool:
    """Whether a row longer than the model's windows stays as it is where more tokens follow it."""
    shown = [past(limit) for limit in limits(model.config) if past(limit) <= TRIED]
    size, more = max([FEWEST, *shown]), FEWEST
    places = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if places is not None and 0 < places < size + more:
        return True
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(0, vocabulary, (2, size + more), generator=torch.Generator().manual_seed(0))
    ids = ids.to(next(model.parameters()).device)
    alone = model.base_model(input_ids=ids[:1, :size]).last_hidden_state[0].float()
    longer = model.base_model(input_ids=ids).last_hidden_state[0, :size].float()
    tolerance = 5e-2 if torch.finfo(model.dtype).bits == 16 else 1e-3
    return bool((alone - longer).norm() <= tolerance * alone.norm())


@torch.no_grad()
def ignores_padding(model: "PreTrainedModel") -> bool:
    """Whether masked padding behind the row of a bidirectional model leaves the row's states as they are."""
    padding = int(model.config.pad_token_id or 0)
    row = torch.tensor([token for token in range(5, 5 + FEWEST) if token != padding])
    padded = torch.cat([row, torch.full((FEWEST,), padding)])
    mask = (torch.arange(len(padded)) < len(row)).long()
    device = next(model.parameters()).device

    def states(ids: Tensor, mask: Tensor) -> Tensor:
        inputs = {"input_ids": ids[None].to(device), "attention_mask": mask[None].to(device)}
        hidden: Tensor = model.base_model(**inputs).last_hidden_state[0, : len(row)]
        return hidden.float()

    alone = states(row, torch.ones_like(row))
    tolerance = 5e-2 if torch.finfo(model.dtype).bits == 16 else 1e-3
    return bool((alone - states(padded, mask)).norm() <= tolerance * alone.norm())


@torch.no_grad()
def is_causal(model: "PreTrainedModel") -> bool:
    """Whether a later token leaves the states of earlier ones as they are."""
    base = model.base_model
    ids = torch.arange(5, 11, device=next(model.parameters()).device)[None]
    other = ids.clone()
    other[0, -1] += 1
    first = base(input_ids=ids).last_hidden_state[0, 0]
    second = base(input_ids=torch.cat([other, ids, ids])).last_hidden_state[0, 0]
    # experts' sums may come in another order
    tolerance = 1e-3 if torch.finfo(model.dtype).bits == 16 else 1e-5
    return bool((first - second).norm() <= tolerance * first.norm())
