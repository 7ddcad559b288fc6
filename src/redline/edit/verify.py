"""Is an edit better than what it edits? A model is asked twice, with the order swapped, and must prefer the
edit both times."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from redline.chat import Answer, Messages
from redline.edit.prompts import Template


@dataclass(frozen=True)
class Verdict:
    """Whether the edit was preferred when it stood second, and when it stood first; None where the answer
    chose neither."""

    second: bool | None
    first: bool | None

    @property
    def better(self) -> bool:
        return self.second is True and self.first is True


async def verify(
    ask: Callable[[Messages, int | None], Awaitable[Answer]],
    template: Template,
    prompt: str,
    rejected: str,
    edited: str,
    guideline: str,
    max_tokens: int | None,
) -> tuple[Verdict, list[Answer]]:
    """Ask for both orders; the answers come along for the token count. Raises what ``ask`` raises."""
    answers = []
    for first, second in ((rejected, edited), (edited, rejected)):
        question = template.fill(prompt=prompt, first=first, second=second, guideline=guideline)
        answers.append(await ask([{"role": "user", "content": question}], max_tokens))
    return Verdict(_prefers(answers[0].text, "2"), _prefers(answers[1].text, "1")), answers


def _prefers(answer: str, edit: str) -> bool | None:
    chosen = re.search(r"(?<!\d)[12](?!\d)", answer)
    return None if chosen is None else chosen[0] == edit
