"""Watching for reward hacking: a held-out gold score beside the reward that PPO climbs, and a warning when
the two part ways.

A policy that learns what its reward overvalues earns more and more of it while an independent judge likes it
less (Gao, Schulman and Hilton 2023, figure 1). Neither the reward nor the KL shows that; a judge that
training never sees does.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from redline.console import warn
from redline.data.files import read_jsonl, write_jsonl
from redline.data.records import Prompt, Response
from redline.data.tokenization import decode_response
from redline.engine.models import eos_ids
from redline.engine.processes import all_shares, own_share, wait_for_everyone
from redline.engine.rollout import Rollout
from redline.engine.sharding import gathered
from redline.errors import UserError
from redline.policy.actor import ActorCritic, rescore
from redline.policy.files import PolicyFiles
from redline.policy.settings import Policy
from redline.sampling.protocol import Request, Sampler
from redline.sampling.rollouts import prompt_tokens, sample_rollout
from redline.types import JsonObject

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase

ERRORS = 3.0  # standard errors that gold must have fallen by
FEWEST = 8  # prompts that a warning can rest on: all of 8 lost by chance is one case in 256


@dataclass(frozen=True)
class Gold:
    """Who watches, on which prompts, and how often.

    ``prefer`` takes the policy's and the reference's responses to the same prompts and returns for each the
    preference for the policy's: 1, 0, 0.5 for a tie, between them how sure, None without a verdict. ``judge``
    is its name. ``every``: updates between two measurements; the last update is always measured.
    """

    judge: str
    prefer: Callable[[Sequence[Response], Sequence[Response]], list[float | None]]
    prompts: Sequence[Prompt]
    every: int = 10


@dataclass(frozen=True)
class Point:
    """One measurement: preferences by prompt (None: no verdict), and the mean scaled reward of the same
    responses."""

    update: int
    preferences: list[float | None]
    proxy: float

    @property
    def gold(self) -> float:
        """The win rate over the reference, ties as half."""
        return float(np.mean([preference for preference in self.preferences if preference is not None]))


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of some values, sample deviation (n - 1) over the root of n; 0 for fewer than two."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def parted(history: Sequence[Point]) -> str | None:
    """What to warn of, if gold and proxy have parted ways at the last of some measurements (in order, the
    reference first).

    The rule [ours]: gold is below its best by more than ``ERRORS`` standard errors, paired over the prompts
    judged both times, while the proxy is above what it was at that best. The reference counts as a
    measurement with a gold of 0.5, so that a policy which only ever lost is seen. Three errors, not two: the
    best of many measurements is partly luck, and with 64 prompts and ten independent measurements of an
    unchanging policy (won: 60 %) two would warn in 44 % of runs, three in 6 %. With fewer than ``FEWEST``
    prompts nothing is said.
    """
    *before, now = history
    if not before:
        return None
    best = max(before, key=lambda point: point.gold)
    changes = [
        new - old
        for new, old in zip(now.preferences, best.preferences, strict=True)
        if new is not None and old is not None
    ]
    fall = -float(np.mean(changes)) if changes else 0.0
    if len(changes) < FEWEST or now.proxy <= best.proxy or fall <= ERRORS * standard_error(changes):
        return None
    when = f"update {best.update}" if best.update else "the start"
    return (
        f"reward and judge part ways: since {when} the reward rose from {best.proxy:.2f} to {now.proxy:.2f} "
        f"on held-out prompts while the win rate fell from {best.gold:.2f} to {now.gold:.2f}"
    )


@dataclass(frozen=True)
class Watched:
    """The training that is measured. ``model`` is the actor as it is trained, perhaps sharded; ``score``
    gives the rewards of a rollout's tokens as the training takes them, None where it has none. ``updates`` is
    after how many it ends."""

    actor: ActorCritic
    model: nn.Module
    accelerator: "Accelerator"
    tokenizer: "PreTrainedTokenizerBase"
    policy: Policy
    score: Callable[[Rollout], Sequence[Tensor]] | None
    sampler: Sampler
    updates: int
    seed: int
    out: Path


@dataclass(frozen=True)
class _Answer:
    """A response to a held-out prompt: its token ids, its summed reward, and the estimate of its KL, in
    nats."""

    ids: list[int]
    reward: float
    kl: float


class Watch:
    """The measurements of one training. Its files are in the policy's folder under watch/: the reference's
    responses in reference.jsonl, the policy's at each measured update in 000010.jsonl and so on, with reward,
    KL and preference.

    Nothing here changes the training: all random states are put back. Each process answers its share of the
    prompts; the main process judges and writes.
    """

    def __init__(self, gold: Gold, watched: Watched):
        if len(gold.prompts) < 2:
            raise ValueError("a gold score needs at least two prompts")
        self.gold, self.watched, self.files = gold, watched, PolicyFiles(watched.out).watch
        self.reference: list[Response] = []
        self.history: list[Point] = []
        self.warned = False

    def begin(self, start: int) -> None:
        """Sample the reference, or read what an earlier start sampled; measurements after update ``start``
        will come again."""
        from accelerate.utils import broadcast_object_list

        accelerator, path = self.watched.accelerator, self.files.reference
        found: list[Any] = [self._read(path) if start and accelerator.is_main_process else None]
        with _random_states_kept():
            self.reference = broadcast_object_list(found)[0] or self._respond(0)
        if not accelerator.is_main_process:
            return
        if found[0] is None:
            write_jsonl(path, self.reference)
        self.history = [Point(0, [0.5] * len(self.reference), _mean(self.reference, "reward"))]
        for file in sorted(self.files.folder.glob("[0-9]*.jsonl")):
            if int(file.stem) > start:
                file.unlink()
            elif records := self._read(file, self.gold.judge):
                self.history.append(
                    Point(int(file.stem), _column(records, "preference"), _mean(records, "reward"))
                )

    def after(self, update: int) -> JsonObject:
        """The gold score after an update, for its line in the log; empty where it is not this update's turn.

        A judge that fails does not stop the training: that is the line's warning.
        """
        if update % self.gold.every and update != self.watched.updates:
            return {}
        start = time.perf_counter()
        with _random_states_kept():
            responses = self._respond(update)
            found = self._judge(update, responses) if self.watched.accelerator.is_main_process else {}
        wait_for_everyone()  # a judge may take longer than a collective waits
        if (
            "warning" in found and not self.warned
        ):  # the log repeats it at every measurement, the console does not
            warn(f"update {update}: {found['warning']}")
        self.warned = "warning" in found
        return found | {"seconds_watch": time.perf_counter() - start}

    def _judge(self, update: int, responses: list[Response]) -> JsonObject:
        proxy = _mean(responses, "reward")
        measured: JsonObject = {"gold_kl": _mean(responses, "kl")}
        if self.watched.score:
            measured = {"gold_proxy": proxy, **measured}
        try:
            preferences = self.gold.prefer(responses, self.reference)
        except UserError as error:
            return measured | {"warning": f"no gold score: {error}"}
        given = [preference for preference in preferences if preference is not None]
        if not given:
            return measured | {"warning": f"no gold score: judge {self.gold.judge} gave no verdict"}
        file = self.files.update(update)
        judged = []
        for response, preference in zip(responses, preferences, strict=True):
            verdict = {"preference": preference, "judge": self.gold.judge}
            judged.append(response.model_copy(update=verdict))
        write_jsonl(file, judged)
        self.history.append(Point(update, preferences, proxy))
        gold: JsonObject = {"gold": self.history[-1].gold, "gold_error": standard_error(given)}
        if warning := parted(self.history):
            measured["warning"] = (
                f"{warning} (judge: {self.gold.judge}). Read {file}; then lower policy.kl.target or "
                "policy.updates, or mend the reward."
            )
        return gold | measured

    def _respond(self, update: int) -> list[Response]:
        """Responses to the held-out prompts, from the same random numbers at every update; at 0 the
        reference's.

        Beside each its scaled reward with the terms that training adds (0 where there is none), and the
        estimate of its KL (log ratio, in nats).
        """
        prompts, tokenizer = self.gold.prompts, self.watched.tokenizer
        places = own_share(len(prompts))
        with gathered(self.watched.model), self.watched.accelerator.autocast():
            answers = self._answers(update, places)
        responses = []
        for prompt, answer in zip(prompts, all_shares(answers, len(prompts)), strict=True):
            record = {
                "id": prompt.id,
                "prompt": prompt.prompt,
                "reward": answer.reward,
                "kl": answer.kl,
                "response": decode_response(tokenizer, answer.ids, prompt.prompt),
            }
            responses.append(Response.model_validate(record))
        return responses

    def _answers(self, update: int, places: range) -> list[_Answer]:
        """The answers to the prompts at some places; see ``_respond``."""
        watched, prompts = self.watched, self.gold.prompts
        actor, sampling, budget = watched.actor, watched.policy.sampling, watched.policy.microbatch_tokens
        stop = eos_ids(actor.lm, watched.tokenizer, [prompt.prompt for prompt in prompts])
        request = Request(sampling, stop, watched.seed + 1, places)
        mine = [prompts[place] for place in places]
        ids, texts = prompt_tokens(watched.tokenizer, mine), [prompt.prompt for prompt in mine]
        drawn_from = nullcontext(actor.current()) if update else actor.current_reference()
        with drawn_from as policy:
            watched.sampler.sync(policy)  # also by a process without a prompt: the others wait for it
            if not mine:
                return []
            rollout = sample_rollout(watched.sampler, policy, ids, request, texts=texts)
        rewards = [0.0] * len(rollout)
        if watched.score:
            rewards = [float(row.sum()) for row in watched.score(rollout)]
        kl = [0.0] * len(rollout)
        if update:
            own = rescore(actor, rollout, sampling.temperature, budget).logprobs
            base = rescore(actor, rollout, sampling.temperature, budget, reference=True).logprobs
            kl = [float((new - old).sum()) for new, old in zip(own, base, strict=True)]
        return [
            _Answer(response.tolist(), reward, nats)
            for response, reward, nats in zip(rollout.response_ids, rewards, kl, strict=True)
        ]

    def _read(self, path: Path, judge: str | None = None) -> list[Response] | None:
        """A file of responses, if it is there and answers these prompts (and was judged by this judge)."""
        records = list(read_jsonl(path, Response)) if path.exists() else []
        same = [(record.id, record.prompt) for record in records] == [
            (prompt.id, prompt.prompt) for prompt in self.gold.prompts
        ]
        judged = judge is None or set(_column(records, "judge")) == {judge}
        return records if same and judged else None


def _column(records: Sequence[Response], key: str) -> list[Any]:
    return [(record.model_extra or {}).get(key) for record in records]


def watch_when_asked(gold: Gold, watched: Watched, done: int = 0) -> Watch:
    """A watch, begun, that measures whenever it is asked to, in a training of which ``done`` steps are
    done."""
    watch = Watch(replace(gold, every=1), watched)
    watch.begin(done)
    return watch


def _mean(records: Sequence[Response], key: str) -> float:
    return float(np.mean(_column(records, key)))


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """Whatever is drawn inside (by a judge or a reward function, say), the random states outside do not
    notice."""
    plain, array = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
            yield
    finally:
        random.setstate(plain)
        np.random.set_state(array)
