"""ExPO: further along the way that a finished policy went from its original (Zheng et al. 2024, 2404.16792).

The strength is 0 at the original, 1 at the policy, 1.5 half as far again: the authors' alpha plus one. The
merged change of a LoRA layer is linear in its B, so B alone is scaled; whole weights move along a straight
line."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from redline.console import progress_bar, say, warn
from redline.data.files import write_jsonl
from redline.data.records import Prompt, Record
from redline.direct.settings import DirectExpo
from redline.engine.models import eos_ids, tokenizer_of
from redline.engine.processes import new_accelerator, sharded_launch, wait_for_everyone
from redline.engine.saving import save
from redline.engine.settings import Model
from redline.errors import UserError
from redline.policy.actor import ActorCritic, rescore
from redline.policy.log import RunLog
from redline.policy.settings import Policy
from redline.policy.start import load_policy
from redline.policy.watch import Gold, Watch, Watched, standard_error, watch_when_asked
from redline.reward.rewards import Reward, build_reward
from redline.sampling.open import open_sampler
from redline.sampling.protocol import Request, Sampler
from redline.sampling.rollouts import prompt_tokens, sample_rollout
from redline.sampling.settings import Sampling
from redline.types import JsonObject

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHORTEST, LONGEST = 0.8, 1.25  # mean length of an allowed strength, against the policy's
FEWER_ENDED = 0.1  # share of responses that may end less often


class Way:
    """The way from an original to a policy, on which an actor can be put anywhere."""

    @torch.no_grad()
    def __init__(self, actor: ActorCritic, policy: Path | str):
        self.parameters: list[Tensor] = []
        self.starts: list[Tensor] = []
        for name, parameter in actor.named_parameters():
            if not parameter.requires_grad or name.startswith("value_head"):
                continue
            if actor.peft is None:
                self.starts.append(parameter.detach().clone())
            elif ".lora_B." in name:
                self.starts.append(torch.zeros_like(parameter.detach()))
            else:
                continue
            self.parameters.append(parameter)
        load_policy(actor, policy)
        self.changes: list[Tensor] = []
        for moved, start in zip(self.parameters, self.starts, strict=True):
            self.changes.append(moved.detach() - start)

    @torch.no_grad()
    def go_to(self, strength: float) -> None:
        """Put the actor's weights at a strength."""
        for parameter, start, change in zip(self.parameters, self.starts, self.changes, strict=True):
            parameter.copy_(start + strength * change)


@dataclass(frozen=True)
class Measured:
    """What a strength does on the prompts of the search. ``rewards`` are by prompt, so that strengths are
    compared pairwise; ``kl`` is in nats a response, ``original_logprob`` a token's mean under the
    original."""

    strength: float
    reward: float
    kl: float
    tokens: float
    ended: float
    original_logprob: float
    rewards: list[float] = field(repr=False)


class Found(Record):
    """A line of search.jsonl."""


def choose(measured: Sequence[Measured], kl_limit: float) -> Measured | None:
    """The smallest allowed strength whose mean reward is within a standard error of the best, paired over
    prompts.

    Allowed are strengths that stay within ``kl_limit``, whose responses have about the policy's length, and
    end about as often. The reward goes on rising where the judge's verdict falls already, hence the limit and
    the smallest of equals. The policy itself (strength 1) has to be among them. None where nothing is
    allowed."""
    policy = next(point for point in measured if point.strength == 1)
    allowed = [point for point in measured if _is_allowed(point, policy, kl_limit)]
    if not allowed:
        return None
    best = max(allowed, key=lambda point: point.reward)
    for point in sorted(allowed, key=lambda point: point.strength):
        lost = [high - low for high, low in zip(best.rewards, point.rewards, strict=True)]
        if best.reward - point.reward <= standard_error(lost):
            return point
    return best


def _is_allowed(point: Measured, policy: Measured, kl_limit: float) -> bool:
    """Whether a strength is close enough to the original, and its responses are like the policy's."""
    if point.kl > kl_limit or point.ended < policy.ended - FEWER_ENDED:
        return False
    return SHORTEST * policy.tokens <= point.tokens <= LONGEST * policy.tokens


class Search:
    """Strengths measured on prompts, all with the same random numbers."""

    def __init__(
        self,
        actor: ActorCritic,
        way: Way,
        tokenizer: "PreTrainedTokenizerBase",
        prompts: Sequence[Prompt],
        reward: Reward,
        sampler: Sampler,
        sampling: Sampling,
        seed: int,
    ):
        self.actor, self.way, self.reward, self.sampler = actor, way, reward, sampler
        self.texts = [prompt.prompt for prompt in prompts]
        self.ids = prompt_tokens(tokenizer, prompts)
        self.request = Request(sampling, eos_ids(actor.lm, tokenizer, self.texts), seed)
        self.temperature = sampling.temperature

    @torch.no_grad()
    def measure(self, strength: float) -> Measured:
        """Sample at a strength, and look."""
        self.way.go_to(strength)
        current = self.actor.current()
        self.sampler.sync(current)
        rollout = sample_rollout(self.sampler, current, self.ids, self.request, texts=self.texts)
        own, base = (
            rescore(self.actor, rollout, self.temperature, 4096, reference=reference).logprobs
            for reference in (False, True)
        )
        rewards = [float(row.sum()) for row in self.reward(rollout)]
        kl = [float((new - old).sum()) for new, old in zip(own, base, strict=True)]
        every: Tensor = torch.cat(base)
        return Measured(
            strength=strength,
            reward=sum(rewards) / len(rewards),
            kl=sum(kl) / len(kl),
            tokens=sum(rollout.sizes) / len(rollout),
            ended=sum(rollout.ended) / len(rollout),
            original_logprob=float(every.mean()) if len(every) else 0.0,
            rewards=rewards,
        )

    def over(self, strengths: Sequence[float]) -> list[Measured]:
        """Each strength measured, the policy's own among them."""
        every = sorted({*strengths, 1.0})
        measured = []
        with progress_bar("search", len(every)) as bar:
            for strength in every:
                point = self.measure(strength)
                measured.append(point)
                bar.advance()
                bar.note(f"strength {strength:g}: reward {point.reward:.2f} KL {point.kl:z.1f}")
        return measured


def decide(measured: Sequence[Measured], kl_limit: float) -> float:
    """The strength that the search comes to, and a line that says why."""
    chosen = choose(measured, kl_limit)
    if chosen is None:
        warn(f"no strength keeps within {kl_limit:g} nats and the policy's length: the policy stays as it is")
        return 1.0
    beyond = "" if chosen.strength > 1 else ", not beyond the policy itself"
    say(f"strength {chosen.strength:g}{beyond}: reward {chosen.reward:.2f}, KL {chosen.kl:z.1f}")
    return chosen.strength


def train_expo(
    recipe: DirectExpo,
    policy: Policy,
    model: Model,
    prompts: Sequence[Prompt],
    out: Path,
    *,
    reward: Path | None,
    seed: int,
    gold: Gold | None = None,
) -> None:
    """Search a strength on ``prompts`` and write the policy at it to ``out``; what was measured is in
    out/search.jsonl. Then the ``gold`` score of every strength, as a curve in out/log.jsonl: it costs samples
    alone. The prompts of the comparison are sampled after the choice only. One strength is taken as it is."""
    if sharded_launch():
        raise UserError("direct.method=expo does not run sharded. Launch one process, or DDP.")
    accelerator = new_accelerator((), out)
    tokenizer = tokenizer_of(model)
    actor = ActorCritic(model, policy.adapt).to(accelerator.device)
    way, sampler = Way(actor, recipe.policy), open_sampler(policy.sampler)
    strength, samples = recipe.strengths[0], 0
    if len(recipe.strengths) > 1:
        scored = build_reward(policy.reward, reward, tokenizer, actor.lm, actor.trunk)
        some = list(prompts)[: recipe.prompts]
        if len(some) < 2:
            raise UserError("direct.method=expo: the search needs at least two prompts. Give data.prompts.")
        limit = recipe.kl_limit or policy.kl.target
        if limit is None:
            raise UserError("direct.method=expo: policy.kl.target is null, so give direct.kl_limit.")
        search = Search(actor, way, tokenizer, some, scored, sampler, policy.sampling, seed)
        measured = search.over(recipe.strengths)
        strength, samples = decide(measured, limit), len(measured) * len(some)
        if accelerator.is_main_process:
            write_search(out, measured, strength)
    if gold is not None:
        watched = Watched(actor, actor, accelerator, tokenizer, policy, None, sampler, 0, seed, out)
        log = RunLog(out, 0, accelerator.is_main_process)
        strengths = {*recipe.strengths, strength} - {0.0}
        _watch_all(sorted(strengths), way, watch_when_asked(gold, watched), log, samples)
    way.go_to(strength)
    if accelerator.is_main_process:
        save(actor.lm, actor.peft, tokenizer, out, model.name)
    wait_for_everyone()


def _watch_all(strengths: Sequence[float], way: Way, watch: Watch, log: RunLog, samples: int) -> None:
    """The gold score at each of some strengths, a line each in the log."""
    for number, strength in enumerate(strengths, 1):
        way.go_to(strength)
        line = {"update": number, "strength": strength, "samples": samples, "seconds": 0.0}
        log.metrics(line | watch.after(number))


def write_search(out: Path, measured: Sequence[Measured], strength: float) -> None:
    """What a search measured, a line a strength."""
    lines = [
        Found.model_validate({"id": f"{one.strength:g}", "chosen": one.strength == strength} | as_plain(one))
        for one in measured
    ]
    write_jsonl(out / "search.jsonl", lines)


def as_plain(measured: Measured) -> JsonObject:
    """What was measured at a strength, less each prompt's reward."""
    return {name: value for name, value in asdict(measured).items() if name != "rewards"}
