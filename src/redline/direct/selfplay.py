"""The methods that learn from the policy's own samples, in rounds or at each step: SPIN, SAPO, SELM and
SPA."""

import math
import random
from dataclasses import replace

import torch

from redline.console import say, warn
from redline.direct import losses
from redline.direct.batch import Batch
from redline.direct.method import Loss, of_pairs
from redline.direct.methods import DpoMethod, changed_edits, edit_pairs
from redline.direct.room import Asked, Room
from redline.direct.rows import Row, common_beginning, end_token, in_one, opening_size, pair_of, with_opening
from redline.direct.settings import DirectSapo, DirectSelm, DirectSpa, DirectSpin
from redline.errors import UserError
from redline.policy.start import load_policy
from redline.types import JsonObject

ANCHORED = ("anchor",)


def as_prompt(row: Row) -> Asked:
    """What a row's response answers, to sample another answer to it."""
    return Asked(row.id, row.prompt, row.ids[: row.before])


def gold_rows(room: Room, words: int) -> list[Row]:
    """The edited responses, each after its prompt. An edit without a prompt lends its response's first words.
    How many are too short for that is said."""
    rows = []
    edits = changed_edits(room)
    for pair, edit in enumerate(edits):
        row, _ = pair_of(edit, pair)
        if not row.before:
            size = opening_size(room.tokenizer, edit.edited, words)
            opened = with_opening(row, size, room.tokenizer)
            if opened is None:
                continue
            row = opened
        rows.append(row)
    _say_left_out(len(edits) - len(rows), len(edits), "have no prompt, and are too short to lend an opening")
    if not rows:
        raise UserError("direct: no edit has a prompt, or is long enough to lend its first words as one.")
    return rows


def _say_left_out(count: int, of: int, why: str) -> None:
    if count:
        say(f"{count} of {of} edits are left out: they {why}")


def mean_size(rows: list[Row]) -> float:
    """Mean number of response tokens."""
    return sum(len(row.response) for row in rows) / max(len(rows), 1)


class SpinMethod(DpoMethod):
    """The edited response over the policy's own to the same prompt, the policy of the round's start as the
    anchor."""

    against = ANCHORED
    helpers = ANCHORED
    draws = True
    settings: DirectSpin

    def __init__(self, settings: DirectSpin, hidden: int):
        super().__init__(settings, hidden)
        self.rounds = settings.rounds

    def begin(self, room: Room, number: int) -> None:
        room.anchors.copy("policy", "anchor")

    def collect(self, room: Room, number: int) -> list[Row]:
        golds = gold_rows(room, self.settings.opening)
        longest = max(len(row.response) for row in golds)
        sampling = room.sampling.model_copy(update={"max_new_tokens": longest, "min_new_tokens": 0})
        drawn = room.sample([as_prompt(row) for row in golds], 1, sampling=sampling)
        rows: list[Row] = []
        for gold, [own] in zip(golds, drawn, strict=True):
            ids = own.ids[: len(gold.ids)]  # cut to the same length: none is told by where it was cut
            if ids != gold.ids:
                pair = number * len(golds) + gold.pair
                rows += [
                    replace(gold, pair=pair, tag=number),
                    replace(own.with_ids(ids, side=-1), pair=pair, tag=number),
                ]
        liked, disliked = rows[::2], rows[1::2]
        room.note(
            pairs=len(liked),
            same=len(golds) - len(liked),
            gold_tokens=mean_size(liked),
            own_tokens=mean_size(disliked),
        )
        if number:
            for row in room.rounds[number - 1]:
                if row.tag == number - 1:  # the pairs that the round before made itself
                    rows.append(replace(row, known={}))
        return rows


class SapoMethod(DpoMethod):
    """At each step a slow average of the policy rewrites a segment of the edited responses; a buffer of such
    pairs is drawn from."""

    against = ANCHORED
    helpers = ("anchor", "average")
    draws = True
    prepares = False  # its rows change, and its anchor
    settings: DirectSapo

    def __init__(self, settings: DirectSapo, hidden: int):
        super().__init__(settings, hidden)
        self.buffer: list[tuple[int, Row, Row]] = []
        """Times drawn, gold, rewritten; the oldest first."""
        self.made = 0

    def collect(self, room: Room, number: int) -> list[Row]:
        golds = gold_rows(room, self.settings.opening)
        if self.settings.cut == "change":
            self._mark_changes(room, golds)
        return golds

    def before_step(self, room: Room, rows: list[Row], step: int, of: int) -> list[Row]:
        room.anchors.average("policy", "average", self.settings.average)
        every = self.settings.anchor_every or max(1, round(of / self.settings.epochs))
        if step and step % every == 0:
            room.anchors.copy("average", "anchor")
        self._rewrite(room, rows, step)
        draw = random.Random(f"{room.seed} {step}")
        places: list[int] = []
        if self.buffer:
            chances = buffer_chances([count for count, _, _ in self.buffer])
            places = draw.choices(range(len(self.buffer)), chances, k=len(rows))
        pairs: list[Row] = []
        for number, place in enumerate(places):
            count, gold, rewritten = self.buffer[place]
            self.buffer[place] = (count + 1, gold, rewritten)
            for row in (gold, rewritten):
                room.passes.lower([row])  # before the row is copied, so that copies share its states
            # a pair may be drawn twice: each time it is a pair of its own, with what is known of it
            pairs += [replace(gold, pair=number), replace(rewritten, pair=number)]
        return pairs

    def _rewrite(self, room: Room, golds: list[Row], step: int) -> None:
        """Let the slow average rewrite a segment of each gold response, into the buffer."""
        most = self.settings.segment
        sampling = self.settings.sampling.model_copy(update={"max_new_tokens": most, "min_new_tokens": 0})
        cuts, asked = [], []
        for row in golds:
            cut = segment_cut(row, most, f"{room.seed} {step} {row.id}")
            cuts.append(cut)
            asked.append(Asked(row.id, row.prompt, row.ids[: row.before + cut]))
        for row, cut, [drawn] in zip(golds, cuts, room.sample(asked, 1, "average", sampling), strict=True):
            ended = len(drawn.response) > 0 and drawn.response[-1] == end_token(room.tokenizer, row.prompt)
            ids = with_segment(row, cut, drawn.response[:most], ended)
            if ids != row.ids:
                self.buffer.append((0, replace(row, side=1), row.with_ids(ids, side=-1)))
                self.made += 1
        del self.buffer[: max(0, len(self.buffer) - self.settings.buffer)]

    def _mark_changes(self, room: Room, golds: list[Row]) -> None:
        """Note with each row where its edit's changes begin."""
        edits = {edit.id: edit for edit in changed_edits(room)}
        for row in golds:
            labels = edits[row.id].edited_labels
            shift = row.before - len(edits[row.id].prompt_ids)
            row.marks = []
            for place, label in enumerate(labels):
                begins = label != 0 and (place == 0 or labels[place - 1] == 0)
                if begins and place >= shift:
                    row.marks.append(place - shift)

    def state(self) -> JsonObject:
        return {
            "buffer": [[count, gold.plain(), rewritten.plain()] for count, gold, rewritten in self.buffer],
            "made": self.made,
        }

    def load_state(self, state: JsonObject) -> None:
        self.buffer = [(count, Row(**gold), Row(**rewritten)) for count, gold, rewritten in state["buffer"]]
        self.made = state["made"]


def buffer_chances(counts: list[int]) -> list[float]:
    """How likely each pair of a buffer is drawn next, by how often it was drawn."""
    weights = [1 / (1 + count) for count in counts]
    return [weight / sum(weights) for weight in weights]


def segment_cut(row: Row, most: int, seed: str) -> int:
    """Where the segment of a response begins that is rewritten, in tokens from the response's start.
    Anywhere, so that three tokens are left behind it; at a change of the edit where the row has marks for
    them."""
    size = len(row.response)
    last = size - 3 - min(most, size)
    if last <= 0:
        return 0
    draw = random.Random(seed)
    within = [change for change in row.marks if change <= last]
    return draw.choice(within) if within else draw.randint(0, last)


def with_segment(row: Row, cut: int, segment: list[int], ended: bool) -> list[int]:
    """The ids of a row whose response has a segment replaced; what follows stays, unless the segment
    ended."""
    start = row.before + cut
    rest = [] if ended else row.ids[start + len(segment) :]
    return [*row.ids[:start], *segment, *rest]


class SelmMethod(DpoMethod):
    """After a round of DPO: the best and the worst of the edited, the rejected and the policy's own answer,
    by the run's reward; and less of what the anchor would have said."""

    against = ANCHORED
    helpers = ANCHORED
    neutral = True
    draws = True
    settings: DirectSelm

    def __init__(self, settings: DirectSelm, hidden: int):
        super().__init__(settings, hidden)
        self.rounds = 1 + settings.rounds

    def begin(self, room: Room, number: int) -> None:
        room.anchors.copy("policy", "anchor")

    def collect(self, room: Room, number: int) -> list[Row]:
        if not number:
            return edit_pairs(room, self.settings.pairs)
        pairs = self._opened(room)
        sampling = room.sampling.model_copy(update={"temperature": 1.0, "top_k": 1, "top_p": 1.0})
        answers = room.sample([as_prompt(liked) for liked, _ in pairs], 1, sampling=sampling)
        candidates = []
        for (liked, disliked), [answer] in zip(pairs, answers, strict=True):
            candidates.append([liked, disliked, answer])
        scores = self._scores(room, candidates)
        rows: list[Row] = []
        own_best = 0
        for number_of_pair, (three, marks) in enumerate(zip(candidates, scores, strict=True)):
            best, worst = best_and_worst(marks)
            own_best += best == 2
            rows += [
                replace(three[best], side=1, pair=number_of_pair),
                replace(three[worst], side=-1, pair=number_of_pair),
                replace(three[2], side=0, pair=number_of_pair),
            ]
        room.note(pairs=len(candidates), own_is_best=own_best / max(len(candidates), 1))
        return rows

    def _opened(self, room: Room) -> list[tuple[Row, Row]]:
        """The edits as pairs with a prompt, their sides no longer than what is sampled."""
        pairs = []
        edits = changed_edits(room, self.settings.pairs)
        longest = room.sampling.max_new_tokens
        for number, edit in enumerate(edits):
            liked, disliked = pair_of(edit, number)
            if not liked.before:
                shared = common_beginning(edit.edited, edit.rejected)
                words = opening_size(room.tokenizer, edit.edited, self.settings.opening)
                size = min(shared, words)
                opened_liked = with_opening(liked, size, room.tokenizer)
                opened_disliked = with_opening(disliked, size, room.tokenizer)
                if opened_liked is None or opened_disliked is None:
                    continue
                liked, disliked = opened_liked, opened_disliked
            liked = liked.with_ids(liked.ids[: liked.before + longest], side=1)
            disliked = disliked.with_ids(disliked.ids[: disliked.before + longest], side=-1)
            if liked.ids != disliked.ids:
                pairs.append((liked, disliked))
        _say_left_out(
            len(edits) - len(pairs),
            len(edits),
            f"have no prompt and no common beginning, or do not differ within {longest} tokens after it",
        )
        if not pairs:
            raise UserError("direct.method=selm: no edit has a prompt, or sides with a common beginning.")
        return pairs

    def _scores(self, room: Room, candidates: list[list[Row]]) -> list[list[float]]:
        """The reward of each candidate, all of one prompt cut to one length: a sum over tokens likes long
        ones."""
        cut = []
        for three in candidates:
            size = min(len(row.response) for row in three)
            for row in three:
                cut.append(row.with_ids(row.ids[: row.before + max(size, 1)], row.side))
        marks = room.score(cut)
        return [marks[start : start + 3] for start in range(0, len(marks), 3)]

    def loss(self, batch: Batch) -> Loss:
        total, terms = super().loss(batch)
        own = batch.side == 0
        bonus = losses.optimism(batch.rewards(self.settings.beta, "anchor")[own], self.settings.alpha)
        return Loss(total + bonus.sum() if self.settings.alpha else total, terms)

    def after_step(self, room: Room, seen: Batch) -> dict[str, float]:
        figures = super().after_step(room, seen)
        own = seen.side == 0
        if own.any():
            figures["anchors_own"] = float((seen.policy - seen.anchors["anchor"])[own].mean())
        return figures

    def ends_round(self, seen: Batch) -> bool:
        own = seen.side == 0
        moved = (seen.policy - seen.anchors["anchor"])[own]
        if not len(moved) or float(moved.mean()) >= self.settings.floor:
            return False
        warn(
            f"selm: the anchor's own answers lost {-float(moved.mean()):.0f} nats: the round ends "
            "here (direct.floor)"
        )
        return True


def best_and_worst(marks: list[float]) -> tuple[int, int]:
    """The places of the highest and the lowest mark of (liked, disliked, own). Ties keep the edit's own
    order: the first of the highest, and among the lowest the disliked one."""
    best = marks.index(max(marks))
    order = [1, 2, 0]
    worst = min(order, key=lambda place: marks[place])
    if worst == best:
        return 0, 1
    return best, worst


class SpaMethod(DpoMethod):
    """After a round of DPO on the edits (or another policy): pairs of samples, labelled by how far the policy
    has moved towards each; soft labels where it is least sure."""

    against = ANCHORED
    helpers = ANCHORED
    draws = True
    settings: DirectSpa

    def __init__(self, settings: DirectSpa, hidden: int):
        super().__init__(settings, hidden)
        self.rounds = settings.rounds + (settings.seed is None)
        self.flagged: set[int] = set()

    def start(self, room: Room) -> None:
        if self.settings.seed is not None:
            load_policy(room.anchors.actor, self.settings.seed, self.settings.seed_strength)

    def begin(self, room: Room, number: int) -> None:
        self.flagged.clear()
        room.anchors.copy("policy", "anchor")

    def collect(self, room: Room, number: int) -> list[Row]:
        if self._is_seed(number):
            return edit_pairs(room, self.settings.pairs)
        asked = room.some_prompts(self.settings.prompts, number - (self.settings.seed is None))
        drawn = room.sample(asked, 2)
        moved = self._moved(room, in_one(drawn), "original")
        rows: list[Row] = []
        for pair, (first, second) in enumerate(drawn):
            of_first, of_second = moved[2 * pair], moved[2 * pair + 1]
            if first.ids == second.ids or of_first == of_second or not self._alike(first, second):
                continue
            liked, disliked = (first, second) if of_first > of_second else (second, first)
            rows += [replace(liked, side=1, pair=pair), replace(disliked, side=-1, pair=pair)]
        if not rows:
            raise UserError(
                "direct.method=spa: no prompt gave two different samples of which the policy likes one more. "
                "Raise policy.sampling.temperature or direct.lr, or give more prompts."
            )
        longer = mean_size(rows[::2]) / max(mean_size(rows[1::2]), 1e-9)
        if longer > 1.1:
            warn(
                f"spa: the responses that it likes are {100 * (longer - 1):.0f} % longer. "
                "direct.length=within keeps pairs of about one length."
            )
        room.note(pairs=len(rows) // 2, liked_longer=longer - 1, **self._agreement(room, rows))
        return rows

    def _moved(self, room: Room, rows: list[Row], since: str) -> list[float]:
        """How much likelier the policy makes each response than ``since`` did, in nats."""
        now, before = room.logprobs(rows, "policy"), room.logprobs(rows, since)
        return [new - old for new, old in zip(now, before, strict=True)]

    def _alike(self, first: Row, second: Row) -> bool:
        sizes = len(first.response), len(second.response)
        return self.settings.length == "any" or max(sizes) <= 1.1 * min(sizes)

    def _agreement(self, room: Room, rows: list[Row]) -> dict[str, float]:
        """How often the run's reward likes the same one: a figure, never an input."""
        if not room.has_reward:
            return {}
        marks = room.score(rows)
        right = [liked > disliked for liked, disliked in zip(marks[::2], marks[1::2], strict=True)]
        return {"agreement_with_reward": sum(right) / len(right)}

    def _is_seed(self, number: int) -> bool:
        return number == 0 and self.settings.seed is None

    def before_step(self, room: Room, rows: list[Row], step: int, of: int) -> list[Row]:
        number = len(room.rounds) - 1
        if not self._is_seed(number) and step in (math.ceil(0.2 * of), math.ceil(0.6 * of)) and step:
            self._flag(room, room.rounds[number])
        for row in rows:
            row.tag = int(row.pair in self.flagged)
        return rows

    def _flag(self, room: Room, rows: list[Row]) -> None:
        """Flag the pairs of the round with the smallest margins."""
        moved = self._moved(room, rows, "anchor")
        margins = torch.tensor(
            [liked - disliked for liked, disliked in zip(moved[::2], moved[1::2], strict=True)]
        )
        threshold = margins.quantile(self.settings.unsure)
        self.flagged.clear()
        for liked, margin in zip(rows[::2], margins, strict=True):
            if margin <= threshold:
                self.flagged.add(liked.pair)

    def loss(self, batch: Batch) -> Loss:
        margins, flags = self.margins(batch), batch.tag[batch.liked].float()
        return of_pairs(losses.smoothed(margins, flags, self.settings.alpha) + self.kept(batch))

    def state(self) -> JsonObject:
        return {"flagged": sorted(self.flagged)}

    def load_state(self, state: JsonObject) -> None:
        self.flagged = set(state["flagged"])
