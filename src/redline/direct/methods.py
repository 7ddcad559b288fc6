"""The methods that learn from what people gave alone, without sampling: SFT, FIGA, DPO, BCO, MRPO and SPO."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from redline.console import console, say
from redline.data.tokenization import encode_response, fingerprint, load_tokenizer
from redline.direct import losses
from redline.direct.batch import Batch
from redline.direct.keywords import without_keywords
from redline.direct.method import Loss, Method, of_pairs, pair_figures
from redline.direct.room import Room
from redline.direct.rows import EditRows, Row, cropped, edit_rows, end_token, pair_of, undone
from redline.direct.settings import DirectBco, DirectFiga, DirectMrpo, DirectSft, DirectSpo
from redline.direct.weights import matched_weights
from redline.engine.models import load_causal_lm
from redline.engine.rollout import Rollout
from redline.engine.whole_pass import response_logprobs
from redline.errors import UserError
from redline.types import JsonObject


def changed_edits(room: Room, pairs: str = "edited") -> list[EditRows]:
    """The edits whose two sides differ within the crop; how many do not is said. Raises UserError for
    none."""
    every = edit_rows(room.labels, room.tokenizer, room.max_response, pairs)
    changed = [edit for edit in every if edit.changed]
    if len(changed) < len(every):
        say(
            f"{len(every) - len(changed)} of {len(every)} edits are left out: within {room.max_response} "
            "tokens their two sides are the same"
        )
    if not changed:
        raise UserError(
            "direct: no edit is left whose two sides differ. Give more edits, or a larger "
            "data.max_response_tokens."
        )
    return changed


def edit_pairs(room: Room, pairs: str) -> list[Row]:
    """Every edit as a pair of rows."""
    edits = changed_edits(room, pairs)
    return [row for number, edit in enumerate(edits) for row in pair_of(edit, number)]


class SftMethod(Method):
    """Every token of the edited side has the same weight."""

    def __init__(self, settings: DirectSft, hidden: int):
        self.epochs = [settings.epochs]

    def collect(self, room: Room, number: int) -> list[Row]:
        rows = [pair_of(edit, number)[0] for number, edit in enumerate(changed_edits(room))]
        return [row for row in rows if row.places]

    def loss(self, batch: Batch) -> Loss:
        return Loss(*losses.weighted_tokens(batch.tokens, batch.token_weights))


class FigaMethod(Method):
    """Tokens that the edit put in have weight 1, those that it removed a negative one, all others none."""

    def __init__(self, settings: DirectFiga, hidden: int):
        self.epochs, self.penalty = [settings.epochs], settings.penalty

    def collect(self, room: Room, number: int) -> list[Row]:
        rows = []
        for pair, edit in enumerate(changed_edits(room)):
            liked, disliked = pair_of(edit, pair)
            liked.token_weights = [float(label > 0) for label in edit.edited_labels]
            disliked.token_weights = [self.penalty * min(label, 0) for label in edit.rejected_labels]
            rows += [row for row in (liked, disliked) if row.places]
        if not rows:
            raise UserError(
                "direct: the edits put in and remove nothing that can be learned. Give more edits."
            )
        return rows

    def loss(self, batch: Batch) -> Loss:
        return Loss(*losses.weighted_tokens(batch.tokens, batch.token_weights))


class DpoMethod(Method):
    """The edited response over the rejected one. The base of all methods that compare two responses."""

    against: tuple[str, ...] = ("original",)

    def __init__(self, settings: Any, hidden: int):
        self.settings, self.epochs = settings, [settings.epochs]

    def collect(self, room: Room, number: int) -> list[Row]:
        return edit_pairs(room, self.settings.pairs)

    def loss(self, batch: Batch) -> Loss:
        return of_pairs(losses.dpo(self.margins(batch)) + self.kept(batch))

    def margins(self, batch: Batch) -> Tensor:
        return batch.margins(self.settings.beta, self.against[0])

    def kept(self, batch: Batch) -> Tensor:
        """The term that keeps the liked side likely, ``[P]``; 0 where the recipe does not ask for it."""
        liked = batch.liked
        if not self.settings.keep:
            return torch.zeros(len(liked), device=batch.policy.device)
        return losses.liked_likelihood(batch.policy[liked], batch.sizes[liked], self.settings.keep)

    def after_step(self, room: Room, seen: Batch) -> dict[str, float]:
        return pair_figures(seen, self.settings.beta, self.against[0])


class MrpoMethod(DpoMethod):
    """DPO against a reference that is made of two, once, before training."""

    against = ("mixed",)
    settings: DirectMrpo

    def collect(self, room: Room, number: int) -> list[Row]:
        rows = edit_pairs(room, self.settings.pairs)
        extra = self._extra(room, rows)
        base = room.logprobs(rows, "original")
        of_base = torch.tensor(base, dtype=torch.float64).view(-1, 2)
        of_extra = torch.tensor(extra, dtype=torch.float64).view(-1, 2)
        settings = self.settings
        mixed = losses.combined_reference(
            of_base, of_extra, settings.clip, settings.adaptive, settings.weights
        )
        for row, total in zip(rows, mixed.flatten().tolist(), strict=True):
            row.given["mixed"] = total
        return rows

    def _extra(self, room: Room, rows: Sequence[Row]) -> list[float]:
        """What the second reference says of each response."""
        model = room.model.model_copy(update={"name": self.settings.extra, "revision": None})
        theirs = load_tokenizer(model.name, model.trust_remote_code)
        if fingerprint(theirs).rpartition("@")[2] != fingerprint(room.tokenizer).rpartition("@")[2]:
            raise UserError(
                f"direct.extra: {model.name} has another tokenizer than {room.model.name}, so their "
                "log-probabilities cannot be mixed. Name a model with the same one."
            )
        lm = load_causal_lm(model)

        def compute(mine: list[Row]) -> list[float]:
            rollout = Rollout(prompts=[], prompt_ids=[], response_ids=[], logprobs=[], ended=[])
            for row in mine:
                first = max(row.before, 1)  # nothing predicts the first token of all
                rollout.prompts.append(row.prompt)
                rollout.prompt_ids.append(torch.tensor(row.ids[:first]))
                rollout.response_ids.append(torch.tensor(row.ids[first:]))
                rollout.ended.append(False)
            logprobs = response_logprobs(lm, rollout, 1.0, room.passes.budget)
            return [float(row.float().sum()) for row in logprobs]

        return room.shared(rows, compute)


class BcoMethod(Method):
    """Likes and dislikes as two classes of a logistic classifier, whose threshold is a running mean of
    rewards."""

    against = ("original",)

    def __init__(self, settings: DirectBco, hidden: int):
        self.settings, self.epochs = settings, [settings.epochs]
        self.decay = settings.decay or (1.0 if settings.shift == "pooled" else 0.9)
        self.sums = [[0.0, 0.0], [0.0, 0.0]]
        """Of liked and disliked rows: the decayed sum of rewards, and of how many."""

    def collect(self, room: Room, number: int) -> list[Row]:
        rows = edit_pairs(room, "edited") if room.labels else []
        if self.settings.use_chosen:
            chosen = [edit for edit in room.labels if (edit.model_extra or {}).get("chosen") is not None]
            edits = edit_rows(chosen, room.tokenizer, room.max_response, "chosen")
            rows += [pair_of(edit, -1)[0] for edit in edits]
        rows += room.thumbs
        rows = [row for row in rows if row.places]
        for side, word in ((1, "liked"), (-1, "disliked")):
            if not any(row.side == side for row in rows):
                raise UserError(
                    f"direct.method=bco: there is no {word} response, and it learns the difference between "
                    "liked and disliked ones. Give data.feedback of both kinds, or edits."
                )
        if self.settings.match:
            self._match(room, rows)
        return rows

    @property
    def shift(self) -> float:
        """The threshold, 0 until there is something to take it from."""
        (liked, likes), (disliked, dislikes) = self.sums
        if self.settings.shift == "none" or not likes + dislikes:
            return 0.0
        if self.settings.shift == "pooled":
            return (liked + disliked) / (likes + dislikes)
        if not likes or not dislikes:
            return 0.0
        return (liked / likes + disliked / dislikes) / 2

    def loss(self, batch: Batch) -> Loss:
        rewards = batch.rewards(self.settings.beta, "original")
        return Loss(losses.bco(rewards, batch.side, self.shift, batch.weight).sum(), batch.groups)

    def after_step(self, room: Room, seen: Batch) -> dict[str, float]:
        rewards = seen.rewards(self.settings.beta, "original").double()
        means = []
        for place, side in enumerate((1, -1)):
            mine = rewards[seen.side == side]
            total, count = self.sums[place]
            self.sums[place] = [
                self.decay * total + float(mine.sum()),
                self.decay * count + len(mine),
            ]
            means.append(float(mine.mean()) if len(mine) else float("nan"))
        figures = {"liked_reward": means[0], "disliked_reward": means[1], "shift": self.shift}
        return figures | pair_figures(seen, self.settings.beta, "original")

    def state(self) -> JsonObject:
        return {"sums": self.sums}

    def load_state(self, state: JsonObject) -> None:
        self.sums = state["sums"]

    def _match(self, room: Room, rows: list[Row]) -> None:
        """Weigh disliked rows so that their prompts are distributed as the liked ones'."""
        features = torch.stack([room.passes.prompt_features(row) for row in rows])
        liked = torch.tensor([row.side > 0 for row in rows])
        weights, floor, cap = matched_weights(features, liked, room.seed)
        disliked = [row for row in rows if row.side < 0]
        for row, weight in zip(disliked, weights.tolist(), strict=True):
            row.weight = weight
        console.print(
            f"direct.match: {100 * floor:.0f} % of the disliked responses have the smallest weight, "
            f"{100 * cap:.0f} % the largest",
            style="yellow" if floor + cap > 0.3 else None,
            highlight=False,
        )


class SpoMethod(DpoMethod):
    """DPO, and a head on mean last states that tells how much of the edit is undone (a reconstruction)."""

    settings: DirectSpo
    pooled = True

    def __init__(self, settings: DirectSpo, hidden: int):
        super().__init__(settings, hidden)
        self.head = nn.Linear(hidden, settings.levels + 1)
        self.head_rate = settings.head_lr

    def collect(self, room: Room, number: int) -> list[Row]:
        rows = []
        for pair, edit in enumerate(changed_edits(room, self.settings.pairs)):
            liked, disliked = pair_of(edit, pair)
            if self.settings.degrees == "hunks":
                disliked.tag = self.settings.levels
                between = undone(edit, self.settings.levels, room.seed)
            else:
                disliked.tag = -1
                between = self._shorter(room, edit)
            rows += [liked, disliked]
            for degree, ids in between:
                rows.append(replace(liked.with_ids([*edit.prompt_ids, *ids], side=0), tag=degree))
        return rows

    def _shorter(self, room: Room, edit: EditRows) -> list[tuple[int, list[int]]]:
        """The edited response without its keywords, more and more of them."""
        text = str(room.tokenizer.decode(edit.edited, skip_special_tokens=True))
        made = []
        end = None
        if len(edit.edited) < room.max_response:
            end = end_token(room.tokenizer, edit.prompt)
        for degree, shorter in without_keywords(text, self.settings.levels):
            ids = encode_response(room.tokenizer, "", shorter).ids
            if ids:
                made.append((degree, cropped(ids, room.max_response, end)))
        return made

    def loss(self, batch: Batch) -> Loss:
        total, terms = super().loss(batch)
        assert self.head is not None  # made in __init__
        assert batch.pooled is not None  # asked for by `pooled`
        if not self.settings.weight:
            return Loss(total, terms)
        has_degree = batch.tag >= 0
        degrees = losses.degree(self.head(batch.pooled[has_degree]), batch.tag[has_degree])
        return Loss(total + self.settings.weight * degrees.sum() / (self.settings.levels + 1), terms)
