"""What a method may touch: edits, prompts and feedback, samples, the run's reward, and frozen models.

It gives neither the judge nor the prompts of the comparison, so that no method can learn from them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from redline.data.records import Labels, Text
from redline.direct.anchors import Anchors
from redline.direct.batch import Passes
from redline.direct.rows import Row
from redline.engine.batching import draw_rows
from redline.engine.models import eos_ids
from redline.engine.processes import all_shares, own_share
from redline.engine.rollout import Rollout
from redline.engine.settings import Model
from redline.errors import UserError
from redline.reward.rewards import Reward
from redline.sampling.protocol import Request, Sampler
from redline.sampling.rollouts import sample_rollout
from redline.sampling.settings import Sampling
from redline.types import JsonObject

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase

SEEDS = 15_485_863  # between the seeds of two samplings


@dataclass(frozen=True)
class Asked:
    """A prompt to sample from: its record's id, as text or messages, and as token ids."""

    id: str
    prompt: Text
    ids: list[int]


@dataclass
class Counts:
    """What a method has used so far."""

    drawn: int = 0
    """Responses sampled."""
    scored: int = 0
    """Responses that the reward was asked about."""
    learned: int = 0
    """Pairs, or single responses, that steps were taken on."""
    trained: int = 0
    """Rows passed through the trained layers, forward and backward."""


class Room:
    """One training's data and means. All processes call its functions together, and all get the whole result.

    ``labels`` are the labelled edits, ``thumbs`` single responses that people liked or disliked, ``prompts``
    those that may be sampled from. ``rounds`` holds the rows of every round so far."""

    def __init__(
        self,
        labels: Sequence[Labels],
        thumbs: Sequence[Row],
        prompts: Sequence[Asked],
        tokenizer: "PreTrainedTokenizerBase",
        anchors: Anchors,
        passes: Passes,
        sampler: Sampler,
        sampling: Sampling,
        reward: Callable[[], Reward] | None,
        accelerator: "Accelerator",
        model: Model,
        max_response: int,
        seed: int,
    ):
        self.labels, self.thumbs, self.prompts = list(labels), list(thumbs), list(prompts)
        self.tokenizer, self.anchors, self.passes = tokenizer, anchors, passes
        self.max_response, self.seed, self.sampling = max_response, seed, sampling
        self.accelerator, self.counts, self.notes = accelerator, Counts(), JsonObject()
        self.model, self.rounds = model, list[list[Row]]()
        self._sampler, self._reward = sampler, reward
        self._built: Reward | None = None
        self._samplings = 0

    @property
    def has_reward(self) -> bool:
        """Whether responses can be scored."""
        return self._reward is not None

    def sample(
        self, prompts: Sequence[Asked], n: int, who: str = "policy", sampling: Sampling | None = None
    ) -> list[list[Row]]:
        """``n`` responses to each prompt by the policy, the original or an anchor: ``[prompts][n]`` rows on
        neither side."""
        texts = [asked.prompt for asked in prompts]
        stop = eos_ids(self.anchors.actor.lm, self.tokenizer, texts)
        seed = (self.seed * 1_000_003 + self._samplings) * SEEDS % 2**63
        self._samplings += 1
        places = own_share(len(prompts))
        mine = [prompts[place] for place in places]
        of_responses: list[int] = []
        for place in places:
            of_responses += range(place * n, place * n + n)
        made: list[tuple[int, list[int]]] = []
        with self.anchors.sampling_from(who) as current, self.accelerator.autocast():
            self._sampler.sync(current)  # also by a process without a prompt: the others wait for it
            if mine:
                request = Request(sampling or self.sampling, stop, seed, of_responses)
                rollout = sample_rollout(self._sampler, current, [asked.ids for asked in mine], request, n)
                sampled = zip(of_responses, rollout.response_ids, strict=True)
                made = [(place, ids.tolist()) for place, ids in sampled]
        every = sorted(self.gathered(made))
        self.counts.drawn += len(every)
        rows: list[list[Row]] = [[] for _ in prompts]
        for place, ids in every:
            asked = prompts[place // n]
            row = Row([*asked.ids, *ids], len(asked.ids), id=asked.id, prompt=asked.prompt)
            rows[place // n].append(row)
        return rows

    def score(self, rows: Sequence[Row]) -> list[float]:
        """The run's reward of each response, summed over its tokens. Raises UserError where the run has
        none."""
        if self._reward is None:
            raise UserError("direct: this method ranks responses by the run's reward. Give policy.reward.")
        if self._built is None:
            self._built = self._reward()
        reward = self._built

        def compute(mine: list[Row]) -> list[float]:
            stop = set(eos_ids(self.anchors.actor.lm, self.tokenizer, [row.prompt for row in mine]))
            rollout = Rollout(prompts=[], prompt_ids=[], response_ids=[], logprobs=[], ended=[])
            for row in mine:
                rollout.prompts.append(row.prompt)
                rollout.prompt_ids.append(torch.tensor(row.ids[: row.before]))
                rollout.response_ids.append(torch.tensor(row.response, dtype=torch.long))
                rollout.ended.append(bool(row.response) and row.response[-1] in stop)
            return [float(rewards.sum()) for rewards in reward(rollout)]

        self.counts.scored += len(rows)
        return self.shared(rows, compute)

    def logprobs(self, rows: Sequence[Row], who: str) -> list[float]:
        """Summed log-probabilities of some rows' responses by the policy, the original or an anchor."""

        def compute(mine: list[Row]) -> list[float]:
            totals: dict[int, float] = {}
            for group in self.passes.groups(mine):
                for row, total in zip(group, self.passes.logprobs(group, who), strict=True):
                    totals[id(row)] = total
            return [totals[id(row)] for row in mine]

        return self.shared(rows, compute)

    def shared(self, rows: Sequence[Row], compute: Callable[[list[Row]], list[float]]) -> list[float]:
        """A number for each row, each process computing those of its share."""
        places = own_share(len(rows))
        numbers = compute([rows[place] for place in places]) if places else []
        return all_shares(numbers, len(rows))

    def prepare(self, rows: Sequence[Row], against: Sequence[str]) -> None:
        """Let rows know what frozen models say of them, each process computing its share."""
        mine = [rows[place] for place in own_share(len(rows))]
        self.passes.prepare(mine, against)
        for row, known in zip(rows, all_shares([row.known for row in mine], len(rows)), strict=True):
            row.known.update(known)

    def some_prompts(self, count: int, number: int) -> list[Asked]:
        """The prompts of round ``number`` when each takes the next ``count``: no prompt comes again before
        all have been there. Raises UserError where there are none."""
        if not self.prompts:
            raise UserError("direct: this method samples answers to prompts. Give data.prompts.")
        count = min(count, len(self.prompts))
        return [self.prompts[row] for row in draw_rows(len(self.prompts), count, number, self.seed)]

    def note(self, **figures: Any) -> None:
        """Figures of a round, for its lines in the log."""
        self.notes.update(figures)

    def state(self) -> JsonObject:
        """What a checkpoint has to hold."""
        return {"counts": vars(self.counts).copy(), "samplings": self._samplings, "notes": dict(self.notes)}

    def load_state(self, state: JsonObject) -> None:
        """Put back what ``state`` gave."""
        self.counts, self._samplings = Counts(**state["counts"]), state["samplings"]
        self.notes = dict(state["notes"])

    def gathered(self, mine: list[Any]) -> list[Any]:
        """What all processes have, in one list."""
        if self.accelerator.num_processes == 1:
            return mine
        from accelerate.utils import gather_object

        return list(gather_object(mine))
