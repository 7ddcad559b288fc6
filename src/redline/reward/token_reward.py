"""A reward model as people use it from Python: texts in, a reward for every token out."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from redline.data.records import Text
from redline.errors import UserError
from redline.reward.model import RewardModel, load_reward_model


@dataclass(frozen=True)
class ScoredResponse:
    """A response and the reward of each of its tokens.

    ``text``: the response as the model read it (behind a chat template, without white space around it).
    ``tokens``: the text of each token. ``offsets``: the characters ``[start, end)`` of ``text`` that it
    stands for. ``rewards``: one float a token; of a token classifier between -1 (bad) and 1 (good). All three
    have the same length.
    """

    text: str
    tokens: list[str]
    offsets: list[tuple[int, int]]
    rewards: list[float]

    @property
    def total(self) -> float:
        """The sum of the tokens' rewards: the reward of the whole response."""
        return sum(self.rewards)

    def __str__(self) -> str:
        """A line a token: its reward and its text."""
        lines = []
        for token, reward in zip(self.tokens, self.rewards, strict=True):
            lines.append(f"{reward:+.2f} {token!r}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """What a notebook shows: the text, red where the reward is negative, blue where it is positive."""
        strongest = max((abs(reward) for reward in self.rewards), default=0.0) or 1.0
        marks, end = [], 0
        for (start, stop), reward in zip(self.offsets, self.rewards, strict=True):
            start = max(start, end)  # tokens that share a character have the same offsets
            between, text, end = self.text[end:start], self.text[start:stop], max(end, stop)
            colour = "192, 57, 43" if reward < 0 else "41, 98, 155"
            strength = 0.6 * abs(reward) / strongest
            marks.append(
                f'{escape(between)}<span style="background: rgba({colour}, {strength:.2f})" '
                f'title="{reward:+.3f}">{escape(text)}</span>'
            )
        return f'<p style="white-space: pre-wrap">{"".join(marks)}{escape(self.text[end:])}</p>'


class TokenReward:
    """A reward model that scores texts. ``model`` is the model itself."""

    def __init__(self, model: RewardModel):
        self.model = model

    @classmethod
    def from_pretrained(cls, name: str | Path) -> "TokenReward":
        """The reward model in a folder, such as ``runs/demo/reward``, or of that name on the Hub.

        Raises UserError when there is none, or when it is no reward model.
        """
        return cls(load_reward_model(str(name)))

    def score(self, prompts: Sequence[Text], responses: Sequence[Text]) -> list[ScoredResponse]:
        """A reward for every token of each response.

        A prompt is plain text that the response continues ("" for none), or a conversation (messages with
        ``role`` and ``content``), which goes through the model's chat template. A sequence model's score lies
        on the last token, with zeros before it. Raises UserError for one text in place of a list, for lists
        of different lengths, and for a conversation that the chat template refuses.
        """
        if isinstance(prompts, str) or isinstance(responses, str):
            raise UserError("score takes lists: score([prompt], [response]) for a single one.")
        if len(prompts) != len(responses):
            raise UserError(f"score was given {len(prompts)} prompts for {len(responses)} responses.")
        scored = []
        for text, offsets, rewards in self.model.score(list(prompts), list(responses)):
            tokens = [text[start:end] for start, end in offsets]
            scored.append(ScoredResponse(text, tokens, offsets, rewards.tolist()))
        return scored
