"""The policy and its critic: one model above the cut gives log-probabilities and values in one pass."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from redline.engine.adapt import adapt, depth_of, train_layers
from redline.engine.batching import pack, pad
from redline.engine.logits import scaled, soft_cap
from redline.engine.logprobs import token_logprobs
from redline.engine.models import for_training, load_causal_lm
from redline.engine.rollout import Rollout
from redline.engine.settings import Adapt, Model
from redline.engine.trunk import Trunk
from redline.engine.views import Split
from redline.sampling.protocol import CurrentPolicy
from redline.types import Network

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ActorCritic(nn.Module):
    """A causal language model with a value head on its last hidden states, cut below its trained layers.

    ``lm`` is the Transformers model (with PEFT's adapters in it, when ``peft`` wraps it). The reference is
    what it was before training: the adapter switched off, or with full fine-tuning a copy of the trained
    weights alone. ``critic`` says what the value head reads: the policy's states (shared), or those of
    another copy of what is trained, which the value loss alone moves (own). None: there is no value head.
    """

    def __init__(self, model: Model, how: Adapt, critic: Literal["shared", "own"] | None = "shared"):
        super().__init__()
        lm = load_causal_lm(for_training(model, how.lora_rank))
        depth = depth_of(lm)
        cut = depth - train_layers(how, depth)
        wrapped = adapt(lm, how, depth)
        self.lm: PreTrainedModel = lm
        self.peft: Network = wrapped if how.lora_rank else None
        self.split = Split(lm, cut, how.gradient_checkpointing)
        self.trunk = Trunk(self.split.cut)
        self.value_head = None if critic is None else _value_head(lm)
        self.critic: Network = _copy(lm.base_model) if critic == "own" else None
        self._critic_split = (
            Split(self.critic, self.split.cut, how.gradient_checkpointing)
            if self.critic is not None
            else None
        )
        # held in a list, so that it is no submodule: its weights are neither trained nor saved
        self._reference = [] if how.lora_rank else [Split(_copy(lm).requires_grad_(False), self.split.cut)]

    def forward(
        self,
        states: Tensor,
        rows: Tensor,
        columns: Tensor,
        targets: Tensor,
        temperature: float,
        entropy: bool = False,
        reference: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-probabilities, values and entropies ``[N]`` of the tokens ``targets`` ``[N]``, predicted at
        ``(rows[n], columns[n])``.

        ``states`` ``[B, T, H]`` enter the cut, padded on the right. With ``reference`` the log-probabilities
        are the reference's, and there are no values; nor are there any without a critic.
        """
        with self.reference() if reference else nullcontext(self.split) as split:
            hidden = split.upper(states)[rows, columns]
        lm = split.model
        cap = soft_cap(lm)
        logprobs, entropies = token_logprobs(
            scaled(lm, hidden), lm.get_output_embeddings(), targets, temperature, cap, entropy
        )
        if reference or self.value_head is None:
            return logprobs, None, entropies
        if self._critic_split is not None:
            hidden = self._critic_split.upper(states)[rows, columns]
        return logprobs, self.value_head(hidden.float())[:, 0], entropies

    def train(self, mode: bool = True) -> "ActorCritic":
        """Dropout stays off in training too: what is kept of a pass, and what is computed again, has to be
        the same."""
        super().train(mode)
        for part in (self.lm, self.critic):
            if part is not None:
                part.eval()
        return self

    @contextmanager
    def reference(self) -> Iterator[Split]:
        """Inside, the model that training began with: the policy's with its adapter off, or the copy."""
        if self._reference:
            yield self._reference[0]
        else:
            with self.peft.disable_adapter():
                yield self.split

    def current(self) -> CurrentPolicy:
        """The policy as it is now, for a sampler."""
        return CurrentPolicy(self.lm, self.peft, self.trunk)

    @contextmanager
    def current_reference(self) -> Iterator[CurrentPolicy]:
        """The same of the reference; the adapter is off inside."""
        with self.reference() as split:
            yield CurrentPolicy(split.model, None, self.trunk)


def _value_head(lm: "PreTrainedModel") -> nn.Linear:
    """A head that gives every state the value 0."""
    head = nn.Linear(lm.config.get_text_config().hidden_size, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head.to(lm.device)


def _copy(lm: Network) -> Any:
    """A copy of a model that shares every weight that is not trained."""
    shared = {id(parameter): parameter for parameter in lm.parameters() if not parameter.requires_grad}
    return copy.deepcopy(lm, shared)


def predicted(
    rollout: Rollout, members: list[int], layer: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The inputs of a pass from a layer on, over some rows of a rollout: states (ids at layer 0), rows,
    columns and targets ``[N]``.

    A response token is predicted at the position before it. Rows follow each other in the order of
    ``members``, tokens in theirs.
    """
    stored = rollout.inputs(layer)
    states = pad([stored[index] for index in members]).to(device)
    rows = torch.cat([torch.full((rollout.sizes[index],), place) for place, index in enumerate(members)])
    columns = torch.cat(
        [torch.arange(rollout.sizes[index]) + len(rollout.prompt_ids[index]) - 1 for index in members]
    )
    targets = torch.cat([rollout.response_ids[index] for index in members])
    return states, rows.to(device), columns.to(device), targets.to(device)


@dataclass
class Rescored:
    """What a model makes of a rollout's tokens, ``[R_i]`` a response. What it does not give is empty."""

    logprobs: list[Tensor]
    values: list[Tensor]
    entropies: list[Tensor]


@torch.no_grad()
def rescore(
    actor: ActorCritic,
    rollout: Rollout,
    temperature: float,
    budget: int,
    reference: bool = False,
    entropy: bool = False,
) -> Rescored:
    """Log-probabilities, values and entropies of every response, by the policy or its reference. Values
    come from the policy alone, where it has a critic. ``budget`` tokens are computed at once."""
    device = actor.lm.device
    columns: list[list[Tensor]] = [[torch.zeros(0)] * len(rollout) for _ in range(3)]
    for members in pack([len(ids) for ids in rollout.sequences], budget):
        inputs = predicted(rollout, members, actor.split.cut, device)
        outputs = actor(*inputs, temperature, entropy, reference)
        sizes = [rollout.sizes[index] for index in members]
        for column, output in zip(columns, outputs, strict=True):
            if output is None:
                continue
            for index, part in zip(members, output.float().cpu().split(sizes), strict=True):
                column[index] = part
    return Rescored(*columns)
