"""Sampling in batches: left padding, KV cache, finished rows dropped, and what PPO needs kept on the way."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from redline.console import progress_bar
from redline.data.records import Prompt, Response, Text
from redline.data.tokenization import load_tokenizer
from redline.engine.batching import pack, pad
from redline.engine.models import eos_ids, load_causal_lm
from redline.engine.packed import packed
from redline.engine.rollout import Rollout
from redline.engine.settings import Model
from redline.engine.views import Tap, cache_argument
from redline.errors import UserError
from redline.sampling.settings import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.generation import LogitsProcessorList

# tokens of prompts and longest responses that are sampled together: so many keys and values are cached
AT_ONCE = 16_384
TRIED, FAR = (
    6,
    0.2,
)  # tokens of a trial, and nats that a token may be off on average: rounding of bfloat16 is a tenth of that

Sampler = Callable[["PreTrainedModel", list[list[int]], Sampling, int], Sequence[Sequence[int]]]
"""An engine of the user's: the policy as it is now, the prompts' token ids, the settings and a seed in; the
token ids of a response to each prompt out, with the end-of-text token where one was sampled."""


def prompt_tokens(tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[Prompt]) -> list[list[int]]:
    """The token ids of prompts. Raises UserError for a prompt without any, since a model cannot continue
    nothing."""
    from redline.data.tokenization import encode_prompt

    found = [encode_prompt(tokenizer, prompt.prompt) for prompt in prompts]
    for prompt, ids in zip(prompts, found, strict=True):
        if not ids:
            raise UserError(
                f"prompt {prompt.id}: is empty, and this tokenizer puts no token in front: there is nothing "
                "to continue. Give data.prompts (and data.eval_prompts) with text."
            )
    return found


@torch.no_grad()
def sample(
    lm: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    eos: Sequence[int],
    seed: int,
    cuts: set[int] | None = None,
    texts: Sequence[Text] | None = None,
    places: Sequence[int] | None = None,
    done: Callable[[int], None] | None = None,
) -> Rollout:
    """One response for each prompt (token ids; ``texts`` are the prompts as given, for rewards that read
    them).

    As many are sampled at once as make ``AT_ONCE`` tokens; ``done`` is told how many more are done. Row ``i``
    draws from random numbers that depend on ``seed`` and ``i`` alone, so two policies with the same seed are
    compared on the same draws, and what else is sampled beside a row changes nothing. Where several processes
    share a batch, ``places`` are the rows' places in the whole of it, and take the place of ``i``. ``cuts``
    names the layers whose incoming states are kept. Raises ValueError for an empty prompt.
    """
    if not all(len(prompt) for prompt in prompts):
        raise ValueError("a prompt has no tokens: a model cannot continue nothing")
    count = len(prompts)
    places = list(places if places is not None else range(count))
    rollout = Rollout(
        list(texts if texts is not None else [""] * count),
        list(map(torch.tensor, prompts)),
        [torch.empty(0)] * count,
        [torch.empty(0)] * count,
        [False] * count,
        {cut: [torch.empty(0)] * count for cut in cuts or ()},
    )
    for group in pack([len(prompt) + sampling.max_new_tokens for prompt in prompts], AT_ONCE):
        rows = sorted(group)
        part = _sample_at_once(
            lm,
            [prompts[row] for row in rows],
            sampling,
            eos,
            seed,
            cuts or set(),
            [places[row] for row in rows],
        )
        columns: list[list[Any]] = [
            rollout.response_ids,
            rollout.logprobs,
            rollout.ended,
            *rollout.states.values(),
        ]
        for into, found in zip(columns, part, strict=True):
            for row, value in zip(rows, found, strict=True):
                into[row] = value
        if done is not None:
            done(len(rows))
    return rollout


def _sample_at_once(
    lm: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    eos: Sequence[int],
    seed: int,
    cuts: set[int],
    places: list[int],
) -> tuple[list[Any], ...]:
    """Of each row the response's ids, its log-probabilities, whether it ended, and for each of ``cuts`` its
    states."""
    from transformers import DynamicCache

    device = next(lm.parameters()).device
    width = max(len(prompt) for prompt in prompts)
    ids, mask = (
        torch.zeros(len(prompts), width, dtype=torch.long),
        torch.zeros(len(prompts), width, dtype=torch.long),
    )
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = torch.tensor(prompt), 1
    ids, mask = ids.to(device), mask.to(device)
    draws = torch.rand(
        max(places) + 1, sampling.max_new_tokens, generator=torch.Generator().manual_seed(seed)
    )
    uniforms = draws[places].to(device)
    stop = torch.tensor(list(eos), dtype=torch.long, device=device)
    warpers: Any = _warpers(sampling)

    tap, cache = Tap(lm, cuts), DynamicCache(config=lm.config)
    cached = cache_argument(lm.base_model, cache)
    live = torch.arange(len(prompts), device=device)  # the rows still running
    lengths = mask.sum(1)
    tokens = torch.zeros(len(prompts), sampling.max_new_tokens, dtype=torch.long, device=device)
    logprobs = torch.zeros(len(prompts), sampling.max_new_tokens, device=device)
    counts = torch.zeros(len(prompts), dtype=torch.long, device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    kept: dict[int, list[tuple[Tensor, Tensor]]] = {
        cut: [] for cut in cuts
    }  # (rows, their new states), a step each

    step_ids, positions = ids, (mask.cumsum(1) - 1).clamp(min=0)
    # on a CPU a twentieth less time; what is made before it stays an ordinary tensor. On GPUs, ZeRO-3 gathers
    # weights in here
    with torch.inference_mode(device.type == "cpu"), packed(lm, len(prompts)):
        for step in range(sampling.max_new_tokens):
            hidden = tap.run(
                input_ids=step_ids,
                attention_mask=mask[live, : width + step],
                position_ids=positions,
                use_cache=True,
                **cached,
            ).last_hidden_state[:, -1]
            for cut, state in tap.states.items():
                kept[cut].append((live, state))
            logits = logits_of(lm, hidden).float()
            if sampling.temperature != 1:
                logits = logits / sampling.temperature
            ending = None
            if step < sampling.min_new_tokens:
                ending = logits[:, stop].logsumexp(1)
                logits = logits.index_fill_(1, stop, -torch.inf)
            weights, normaliser = _weights(logits)
            if ending is not None:
                normaliser = torch.logaddexp(normaliser, ending)
            if warpers:
                weights, _ = _weights(warpers(tokens[live, :step], logits))
            drawn = draw(weights, uniforms[live, step])
            tokens[live, step] = drawn
            logprobs[live, step] = logits.gather(1, drawn[:, None])[:, 0] - normaliser
            counts[live] += 1
            done = torch.isin(drawn, stop)
            ended[live] |= done
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            if bool(done.any()):
                keep = (~done).nonzero()[:, 0]
                live, drawn = live[keep], drawn[keep]
                if not len(live):
                    break
                cache.reorder_cache(cast(Any, keep))  # linear attention's states too
            step_ids, positions = drawn[:, None], (lengths[live] + step)[:, None]
        if kept and len(live):  # the last token of the responses that were cut off
            tap.run(
                input_ids=step_ids,
                attention_mask=mask[live],
                position_ids=positions,
                use_cache=True,
                **cached,
            )
            for cut, state in tap.states.items():
                kept[cut].append((live, state))
    sizes = counts.tolist()
    return (
        [tokens[row, :size].cpu() for row, size in enumerate(sizes)],
        [logprobs[row, :size].cpu() for row, size in enumerate(sizes)],
        ended.tolist(),
        *(_ragged(steps, [len(prompt) for prompt in prompts], sizes) for steps in kept.values()),
    )


def sampled_by(
    sampler: Sampler,
    lm: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    eos: Sequence[int],
    seed: int,
    cuts: set[int],
    texts: Sequence[Text],
    budget: int,
) -> Rollout:
    """The rollout of an engine outside of this process: as ``sample``, without its log-probabilities. The
    states that enter the layers ``cuts`` are computed here, ``budget`` tokens at once. Raises UserError for
    what cannot be a response."""
    stop = set(eos)
    found = [list(map(int, ids)) for ids in sampler(lm, [list(prompt) for prompt in prompts], sampling, seed)]
    if len(found) != len(prompts):
        raise UserError(
            f"policy.sampler returned {len(found)} responses for {len(prompts)} prompts; it must return "
            "one for each."
        )
    for index, ids in enumerate(found):
        if len(ids) > sampling.max_new_tokens or any(not 0 <= token < lm.config.vocab_size for token in ids):
            raise UserError(
                f"policy.sampler returned {len(ids)} tokens for prompt {index}, of at most "
                f"{sampling.max_new_tokens} in a vocabulary of {lm.config.vocab_size}. Check that it uses "
                "the policy's tokenizer and settings."
            )
        if not stop.isdisjoint(ids[:-1]):
            raise UserError(
                f"policy.sampler returned tokens behind the end of text for prompt {index}. It must stop "
                "there."
            )
    rollout = Rollout(
        prompts=list(texts),
        prompt_ids=[torch.tensor(prompt) for prompt in prompts],
        response_ids=[torch.tensor(ids, dtype=torch.long) for ids in found],
        logprobs=[],
        ended=[bool(ids) and ids[-1] in stop for ids in found],
    )
    if cuts:
        rollout.states = {cut: [torch.empty(0)] * len(found) for cut in cuts}
        tap, sequences = Tap(lm, cuts), rollout.sequences
        with torch.no_grad():
            for members in pack([len(ids) for ids in sequences], budget):
                tap.run(input_ids=pad([sequences[row] for row in members]).to(lm.device), use_cache=False)
                for cut, states in tap.states.items():
                    for place, row in enumerate(members):
                        rollout.states[cut][row] = states[place, : len(sequences[row])].clone()
    return rollout


def draw(weights: Tensor, uniforms: Tensor, block: int = 256) -> Tensor:
    """Sample by inverse CDF: weights ``[B, V]`` in proportion to the probabilities, uniforms ``[B]`` in [0,
    1) -> tokens ``[B]``.

    Many times faster than ``torch.multinomial`` on a CPU, and a row's draw does not depend on its neighbours.
    Cumulative sums are slow there, so the vocabulary's blocks are summed first, and only the block that is
    hit is looked into.
    """
    blocks = torch.nn.functional.pad(weights, (0, -weights.shape[1] % block)).view(len(weights), -1, block)
    hit, into = _hit(blocks.sum(2), uniforms)
    place, _ = _hit(blocks[torch.arange(len(blocks), device=weights.device), hit], into)
    return (hit * block + place).clamp(max=weights.shape[1] - 1)  # NaN hits no place


def _hit(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Where in the cumulative weights ``[B, N]`` each uniform ``[B]`` falls: the index, and how far into that
    weight, 0 to 1."""
    cumulative = weights.cumsum(1)
    total = cumulative[:, -1]
    target = torch.minimum(
        uniforms * total, total.nextafter(torch.zeros_like(total))
    )  # never behind the last that weighs anything
    index = torch.searchsorted(cumulative, target[:, None], right=True).clamp(max=weights.shape[1] - 1)
    weight = weights.gather(1, index)
    into = (target[:, None] - (cumulative.gather(1, index) - weight)) / weight
    return index[:, 0], into[:, 0].clamp(0, 1)


def _weights(logits: Tensor) -> tuple[Tensor, Tensor]:
    """``exp`` of logits ``[B, V]`` over that of their largest, and the logits' log-sum-exp ``[B]``."""
    peak = logits.amax(1, keepdim=True)
    weights = (logits - peak).exp_()
    return weights, peak[:, 0] + weights.sum(1).log()


def logits_of(lm: "PreTrainedModel", hidden: Tensor) -> Tensor:
    """Logits ``[..., V]`` of last hidden states ``[..., H]``: the output embedding, and Gemma's soft cap
    where there is one."""
    logits = lm.get_output_embeddings()(hidden)
    cap = getattr(lm.config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


@torch.no_grad()
def check_logits(lm: "PreTrainedModel") -> None:
    """Raise UserError for a model that does something to its logits that ``logits_of`` does not know (some
    families scale them), or whose sampling here is not what one pass gives (some keep their past in another
    way)."""
    ids = torch.arange(3, 9, device=lm.device)[None]
    whole = lm(input_ids=ids).logits.float()
    if not torch.allclose(
        whole, logits_of(lm, lm.base_model(input_ids=ids).last_hidden_state).float(), rtol=1e-2, atol=1e-2
    ):
        raise UserError(
            f"{lm.name_or_path}: {type(lm).__name__} changes its logits behind the output embedding in a "
            "way that Redline does not know. Choose a model of another family."
        )
    prompts = [ids[0].tolist(), ids[0, :3].tolist()]
    responses, sampled, *_ = _sample_at_once(
        lm, prompts, Sampling(max_new_tokens=TRIED), [], 0, set(), [0, 1]
    )
    apart = []
    for prompt, response, logprobs in zip(prompts, responses, sampled, strict=True):
        hidden = lm.base_model(
            input_ids=torch.tensor([[*prompt, *response.tolist()]], device=lm.device)
        ).last_hidden_state
        whole = logits_of(lm, hidden[0, len(prompt) - 1 : -1]).float().log_softmax(-1).cpu()
        apart.append(whole.gather(1, response[:, None])[:, 0] - logprobs)
    if float(torch.cat(apart).abs().mean()) > FAR:
        raise UserError(
            f"{lm.name_or_path}: {type(lm).__name__} gives other probabilities a token at a time, with "
            "prompts padded on the left, than in one pass. Choose a model of another family."
        )


def _warpers(sampling: Sampling) -> "LogitsProcessorList | None":
    from transformers.generation import LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

    found = LogitsProcessorList()
    if sampling.top_k:
        found.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        found.append(TopPLogitsWarper(sampling.top_p))
    return found or None


def _ragged(steps: list[tuple[Tensor, Tensor]], prompt_sizes: list[int], sizes: list[int]) -> list[Tensor]:
    """States by row, without padding: the prefill ``[B, P, H]`` and one ``[live, 1, H]`` a step."""
    (live, prefill), *later = steps
    owners = torch.cat([live[:0], *(rows for rows, _ in later)])
    after = torch.cat([prefill[:0, 0], *(states[:, 0] for _, states in later)])[
        owners.argsort(stable=True)
    ]  # each row's, in order
    rows = []
    for first, prompt, size, own in zip(
        prefill, prompt_sizes, sizes, after.split(owners.bincount(minlength=len(live)).tolist()), strict=True
    ):
        row = prefill.new_zeros(prompt + size, prefill.shape[2])
        row[:prompt], row[prompt : prompt + len(own)] = first[len(first) - prompt :], own
        rows.append(row)
    return rows


def sample_responses(
    model: Model, prompts: Sequence[Prompt], sampling: Sampling, seed: int
) -> list[Response]:
    """One response to each prompt by a model, with a progress bar. The same seed gives every model the same
    random numbers."""
    lm, tokenizer = load_causal_lm(model), load_tokenizer(model.name, model.trust_remote_code, model.revision)
    return respond(lm, tokenizer, prompts, sampling, seed, title=f"sample {model.name}")[0]


def respond(
    lm: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Prompt],
    sampling: Sampling,
    seed: int,
    title: str = "sample",
) -> tuple[list[Response], Rollout]:
    """Responses as records, and the rollout behind them."""
    check_logits(lm)
    ids, texts = prompt_tokens(tokenizer, prompts), [prompt.prompt for prompt in prompts]
    with progress_bar(title, len(prompts)) as bar:
        rollout = sample(
            lm, ids, sampling, eos_ids(lm, tokenizer, texts), seed, texts=texts, done=bar.advance
        )
    return [
        Response(
            id=prompt.id, prompt=prompt.prompt, response=tokenizer.decode(response, skip_special_tokens=True)
        )
        for prompt, response in zip(prompts, rollout.response_ids, strict=True)
    ], rollout
