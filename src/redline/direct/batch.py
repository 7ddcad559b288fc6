"""What a loss sees of some rows, and the passes that compute it."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from redline.direct.anchors import Anchors
from redline.direct.rows import Row, in_one, in_units
from redline.engine.batching import pack, pad
from redline.engine.logits import scaled, soft_cap
from redline.engine.logprobs import token_logprobs
from redline.engine.trunk import StateCache
from redline.engine.views import Split
from redline.types import JsonObject


@dataclass
class Batch:
    """R rows as a loss sees them.

    ``policy`` ``[R]``: summed log-probabilities of the responses, with gradient. ``anchors``: the same by
    frozen models, by name, ``[R]`` each. ``side``, ``pair``, ``weight``, ``tag``, ``sizes`` ``[R]``: the
    rows' own, and how many of their tokens count. ``tokens`` ``[N]``: log-probabilities of single tokens,
    with gradient, and ``token_weights`` ``[N]``. ``pooled`` ``[R, H]``: mean last states over the response,
    with gradient, where a method asks for them."""

    policy: Tensor
    anchors: dict[str, Tensor]
    side: Tensor
    pair: Tensor
    weight: Tensor
    tag: Tensor
    sizes: Tensor
    tokens: Tensor = field(default_factory=lambda: torch.zeros(0))
    token_weights: Tensor = field(default_factory=lambda: torch.zeros(0))
    pooled: Tensor | None = None

    @property
    def liked(self) -> Tensor:
        """The places of the pairs' liked rows ``[P]``, in the order of the pairs' numbers."""
        return self._of(1)

    @property
    def disliked(self) -> Tensor:
        """The places of their disliked rows ``[P]``, in the same order."""
        return self._of(-1)

    @property
    def groups(self) -> int:
        """How many pairs, and rows that stand alone."""
        alone = (self.pair < 0) & (self.side != 0)
        return len(set(self.pair[self.pair >= 0].tolist())) + int(alone.sum())

    def rewards(self, beta: float, against: str) -> Tensor:
        """The implicit rewards ``[R]``: ``beta`` times the log-ratio of policy and anchor."""
        return beta * (self.policy - self.anchors[against])

    def margins(self, beta: float, against: str) -> Tensor:
        """How much more the liked responses earn than the disliked ones ``[P]``."""
        rewards = self.rewards(beta, against)
        return rewards[self.liked] - rewards[self.disliked]

    def _of(self, side: int) -> Tensor:
        places = ((self.side == side) & (self.pair >= 0)).nonzero()[:, 0]
        return places[self.pair[places].argsort(stable=True)]

    def detached(self) -> "Batch":
        """What is left after the step: no graph, no single tokens."""
        return replace(
            self,
            policy=self.policy.detach(),
            tokens=torch.zeros(0),
            token_weights=torch.zeros(0),
            pooled=None,
        )


def joined(parts: Sequence[Batch]) -> Batch:
    """Several detached batches as one."""
    columns: JsonObject = {}
    for column in fields(Batch):
        values = [getattr(part, column.name) for part in parts]
        if column.name == "anchors":
            columns["anchors"] = {name: torch.cat([value[name] for value in values]) for name in values[0]}
        elif column.name != "pooled":
            columns[column.name] = torch.cat([value.cpu() for value in values])
    return Batch(**columns)


class Passes:
    """The passes over rows: lower states once, upper layers as often as asked.

    ``budget`` is how many tokens the upper layers compute at once, padding included. Log-probabilities are at
    temperature 1, summed in float32."""

    def __init__(self, anchors: Anchors, budget: int):
        self.anchors, self.budget = anchors, budget
        self.actor = anchors.actor
        self.device = self.actor.lm.device
        # each row by itself: its states do not depend on what is computed beside it, so a training that was
        # stopped computes the same bits again
        self._states = StateCache(self.actor.split, self.device, 1, nullcontext)

    def groups(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Rows in groups to compute together; rows of a pair stay together."""
        units = in_units(rows)
        sizes = []
        for unit in units:
            longest = max(len(row.ids) for row in unit)
            sizes.append(len(unit) * longest)
        return [in_one([units[member] for member in members]) for members in pack(sizes, self.budget)]

    def batch(self, rows: Sequence[Row], against: Sequence[str], neutral: bool, pooled: bool) -> Batch:
        """What a loss sees of some rows, by one pass of the policy with gradients. ``against`` names the
        frozen models whose log-probabilities it reads, ``neutral`` whether also for rows on neither side."""
        frozen = {}
        for name in against:
            totals = [self.known(row, name) if row.side or neutral else 0.0 for row in rows]
            frozen[name] = torch.tensor(totals, device=self.device)
        owners, tokens, states = self._tokens(self.actor.split, rows, pooled)
        weights: list[float] = []
        for row in rows:
            weights += row.weights

        def column(name: str, dtype: torch.dtype) -> Tensor:
            return torch.tensor([getattr(row, name) for row in rows], dtype=dtype, device=self.device)

        return Batch(
            policy=_sums(tokens, owners, len(rows)),
            anchors=frozen,
            side=column("side", torch.long),
            pair=column("pair", torch.long),
            weight=column("weight", torch.float32),
            tag=column("tag", torch.long),
            sizes=torch.tensor([len(row.places) for row in rows], device=self.device),
            tokens=tokens,
            token_weights=torch.tensor(weights, device=self.device),
            pooled=states,
        )

    def known(self, row: Row, who: str) -> float:
        """The summed log-probability of a row's response by a frozen model, computed once for each version of
        it. By itself, so that it does not depend on what is computed beside it."""
        if who in row.given:
            return row.given[who]
        version = self.anchors.versions[who]
        if who not in row.known or row.known[who][0] != version:
            row.known[who] = (version, self.logprobs([row], who)[0])
        return row.known[who][1]

    @torch.no_grad()
    def logprobs(self, rows: Sequence[Row], who: str) -> list[float]:
        """Summed log-probabilities of some rows' responses by ``who``, in one pass."""
        with self.anchors.using(who) as split:
            owners, tokens, _ = self._tokens(split, rows, pooled=False)
        return _sums(tokens, owners, len(rows)).tolist()

    def prepare(self, rows: Sequence[Row], against: Sequence[str]) -> None:
        """Compute what frozen models say of some rows, many at once, and keep it with them."""
        for group in self.groups(rows):
            for who in against:
                unknown = [row for row in group if who not in row.given]
                if not unknown:
                    continue
                for row, total in zip(unknown, self.logprobs(unknown, who), strict=True):
                    row.known[who] = (self.anchors.versions[who], total)

    @torch.no_grad()
    def prompt_features(self, row: Row) -> Tensor:
        """The mean over a row's prompt of the states that enter the cut ``[H]`` (of the last ones, where the
        model is not cut); zeros for a row without a prompt."""
        split = self.actor.split
        if not row.before:
            return torch.zeros(self.actor.lm.config.get_text_config().hidden_size)
        ids = torch.tensor(row.ids[: row.before], device=self.device)[None]
        states = split.lower(ids)
        if not split.cut:
            states = split.upper(states)
        return states[0].float().mean(0).cpu()

    def _tokens(
        self, split: Split, rows: Sequence[Row], pooled: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of each token that counts its row ``[N]`` and its log-probability ``[N]``; if asked, mean last
        states ``[R, H]``."""
        states = pad(self.lower(rows)).to(self.device)
        places = [torch.tensor(row.places, dtype=torch.long) for row in rows]
        sizes = torch.tensor([len(part) for part in places])
        owners = torch.arange(len(rows)).repeat_interleave(sizes).to(self.device)
        columns = (torch.cat(places) - 1).to(self.device)
        targets = torch.cat([row.read().ids[part] for row, part in zip(rows, places, strict=True)])
        hidden = split.upper(states)
        lm = split.model
        logprobs, _ = token_logprobs(
            scaled(lm, hidden[owners, columns]),
            lm.get_output_embeddings(),
            targets.to(self.device),
            1.0,
            soft_cap(lm),
        )
        if not pooled:
            return owners, logprobs, None
        place = torch.arange(hidden.shape[1], device=self.device)
        begin = torch.tensor([row.before for row in rows], device=self.device)[:, None]
        end = torch.tensor([len(row.ids) for row in rows], device=self.device)[:, None]
        inside = ((place >= begin) & (place < end)).float()
        means = torch.einsum("rt,rth->rh", inside, hidden.float()) / inside.sum(1, keepdim=True).clamp(min=1)
        return owners, logprobs, means

    def lower(self, rows: Sequence[Row]) -> list[Tensor]:
        """The states ``[T, H]`` that enter the cut, of each row; its token ids where the model is not cut."""
        return self._states.inputs([row.read() for row in rows], keep=True)


def _sums(tokens: Tensor, owners: Tensor, count: int) -> Tensor:
    """Sums ``[count]`` of the tokens' log-probabilities by the rows that they belong to."""
    return torch.zeros(count, device=tokens.device).index_add(0, owners, tokens.float())
