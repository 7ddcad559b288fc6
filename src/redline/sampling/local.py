"""The sampler in this process: batches with left padding and a cache of keys and values; finished rows leave
the batch, and states that PPO needs are kept on the way."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from redline.engine.batching import pack
from redline.engine.logits import logits_of
from redline.engine.packed import packed
from redline.engine.trunk import LowerStates
from redline.engine.views import cache_argument
from redline.sampling.drawing import Drawing
from redline.sampling.protocol import CurrentPolicy, Drawn, Request

# tokens of prompts and longest responses that are sampled together: so many keys and values are cached
AT_ONCE = 16_384


class InProcess:
    """Samples with the policy's own model (see ``redline.sampling.protocol.Sampler``).

    As many responses are sampled at once as make ``at_once`` tokens. What else is sampled beside a response
    changes nothing in it.
    """

    def __init__(self, at_once: int = AT_ONCE):
        self.at_once = at_once
        self.policy: CurrentPolicy | None = None

    def sync(self, policy: CurrentPolicy) -> None:
        self.policy = policy

    @torch.no_grad()
    def sample(self, prompts: Sequence[Sequence[int]], n: int, request: Request) -> Drawn:
        """``n`` responses to each prompt. Raises ValueError for an empty prompt."""
        if self.policy is None:
            raise ValueError("sync() comes before sample()")
        if not all(len(prompt) for prompt in prompts):
            raise ValueError("a prompt has no tokens: a model cannot continue nothing")
        repeated = [prompt for prompt in prompts for _ in range(n)]
        places = request.places_of(len(repeated))
        ids: list[list[int]] = [[] for _ in repeated]
        logprobs: list[list[float]] = [[] for _ in repeated]
        states = LowerStates(self.policy.trunk.layers, len(repeated))
        lengths = [len(prompt) + request.sampling.max_new_tokens for prompt in repeated]
        for group in pack(lengths, self.at_once):
            rows = sorted(group)
            batch = _Batch(
                self.policy, [repeated[row] for row in rows], request, [places[row] for row in rows]
            )
            batch.run()
            for index, row in enumerate(rows):
                size = batch.sizes[index]
                ids[row] = batch.tokens[index, :size].tolist()
                logprobs[row] = batch.logprobs[index, :size].tolist()
            for layer, kept in batch.states().items():
                for row, value in zip(rows, kept, strict=True):
                    states.put(layer, row, value)
            if request.done is not None:
                request.done(len(rows))
        return Drawn(ids, logprobs, states)


class _Batch:
    """Responses that are sampled together; ``run`` fills ``tokens`` and ``logprobs`` ``[B, N]``."""

    def __init__(
        self, policy: CurrentPolicy, prompts: Sequence[Sequence[int]], request: Request, places: list[int]
    ):
        self.lm, self.steps = policy.lm, request.sampling.max_new_tokens
        device = next(self.lm.parameters()).device
        ids, mask = _left_padded(prompts)
        self.ids, self.mask = ids.to(device), mask.to(device)
        self.prompt_sizes = [len(prompt) for prompt in prompts]
        self.drawing = Drawing(request, places, device)
        self.tap = policy.trunk.tap(self.lm)
        self.kept: list[
            tuple[Tensor, dict[int, Tensor]]
        ] = []  # (rows, their new states by layer), a step each
        self.tokens = torch.zeros(len(prompts), self.steps, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(len(prompts), self.steps, device=device)
        self.counts = torch.zeros(len(prompts), dtype=torch.long, device=device)

    @property
    def sizes(self) -> list[int]:
        """Tokens of each response."""
        return self.counts.tolist()

    def run(self) -> None:
        """Sample until every response has ended or is as long as it may be."""
        from transformers import DynamicCache

        lm, device = self.lm, self.ids.device
        cache = DynamicCache(config=lm.config)
        cached = cache_argument(lm.base_model, cache)
        live = torch.arange(len(self.ids), device=device)  # the rows still running
        prompt_sizes, mask = self.mask.sum(1), self.mask
        step_ids, positions = self.ids, (mask.cumsum(1) - 1).clamp(min=0)

        def forward() -> Tensor:
            """The last hidden states ``[L, H]`` behind the newest tokens."""
            output = self.tap.run(
                input_ids=step_ids,
                attention_mask=mask[live],
                position_ids=positions,
                use_cache=True,
                **cached,
            )
            self.kept.append((live, self.tap.states))
            hidden: Tensor = output.last_hidden_state[:, -1]
            return hidden

        # On a CPU inference mode takes a twentieth less time. On GPUs, ZeRO-3 gathers weights in here.
        with torch.inference_mode(device.type == "cpu"), packed(lm, len(self.ids)):
            for step in range(self.steps):
                logits = logits_of(lm, forward()).float()
                drawn, logprobs = self.drawing.next(logits, live, step, self.tokens[live, :step])
                self.tokens[live, step], self.logprobs[live, step] = drawn, logprobs
                self.counts[live] += 1
                mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
                ends = self.drawing.ends(drawn)
                if bool(ends.any()):
                    going_on = (~ends).nonzero()[:, 0]
                    live, drawn = live[going_on], drawn[going_on]
                    if not len(live):
                        break
                    cache.reorder_cache(cast(Any, going_on))  # linear attention's states too
                step_ids, positions = drawn[:, None], (prompt_sizes[live] + step)[:, None]
            if self.tap.states and len(live):  # the last token of the responses that were cut off
                forward()

    def states(self) -> dict[int, list[Tensor]]:
        """What entered each layer that is kept: ``[P + R, H]`` a response."""
        sizes = self.sizes
        return {
            layer: _ragged([(rows, states[layer]) for rows, states in self.kept], self.prompt_sizes, sizes)
            for layer in self.tap.states
        }


def _left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and mask ``[B, P]`` of prompts, which end together."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids, mask


def _ragged(steps: list[tuple[Tensor, Tensor]], prompt_sizes: list[int], sizes: list[int]) -> list[Tensor]:
    """States by row, without padding: the prefill ``[B, P, H]`` and one ``[live, 1, H]`` a step."""
    (live, prefill), *later = steps
    owners = torch.cat([live[:0], *(rows for rows, _ in later)])
    # each row's states behind each other, in the order of the steps
    after = torch.cat([prefill[:0, 0], *(states[:, 0] for _, states in later)])[owners.argsort(stable=True)]
    parts = after.split(owners.bincount(minlength=len(live)).tolist())
    rows = []
    for first, prompt, size, own in zip(prefill, prompt_sizes, sizes, parts, strict=True):
        row = prefill.new_zeros(prompt + size, prefill.shape[2])
        row[:prompt], row[prompt : prompt + len(own)] = first[len(first) - prompt :], own
        rows.append(row)
    return rows
