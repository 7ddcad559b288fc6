"""The records that travel between the stages: one JSON object a line, unknown keys carried through."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from redline.types import JsonObject

Message = JsonObject  # {"role": ..., "content": ...}, as chat templates take it
Text = str | list[Message]  # a prompt or response: plain text, or a conversation
Label = Annotated[int, Field(ge=-1, le=1)]


class Record(BaseModel):
    """Base of all records. Keys that Redline does not know are kept and written out again."""

    model_config = ConfigDict(extra="allow")

    id: str


class Pair(Record):
    """Two responses to one prompt, the better one known (TRL's preference format)."""

    prompt: Text
    chosen: Text
    rejected: Text


class ToEdit(Record):
    """What an LLM is given to edit: a pair whose ``chosen`` may be missing, where the prompt template does
    not show it."""

    prompt: Text
    rejected: Text
    chosen: Text | None = None


class Edit(Record):
    """A less preferred response and its minimal edit.

    ``editor`` says who edited: a model's name, a person's, or the data set's. ``chosen`` is the preferred
    response of the pair that the edit came from, where there was one.
    """

    prompt: Text
    rejected: Text
    edited: Text
    editor: str = "unknown"
    chosen: Text | None = None


class Feedback(Record):
    """One response that somebody liked or disliked: a thumb up or down. TRL's unpaired format (`completion`,
    `label`) is read too."""

    prompt: Text
    response: Text
    liked: bool


class Labels(Record):
    """Token labels of an edit: -1 or 0 for each rejected token, 0 or +1 for each edited token.

    Tokens are the vocabulary's own strings (words for the whitespace tokenizer), of the response alone: the
    prompt and end-of-text are not among them. ``tokenizer`` identifies the vocabulary (name and fingerprint),
    so that labels made with one tokenizer are never read with another.
    """

    prompt: Text = ""
    rejected_tokens: list[str]
    rejected_labels: list[Label]
    edited_tokens: list[str]
    edited_labels: list[Label]
    tokenizer: str


class Scores(Record):
    """A reward for every token of a response: ``offsets`` are ``[start, end)`` characters into ``text``."""

    text: str
    offsets: list[tuple[int, int]]
    rewards: list[float]


class Prompt(Record):
    """A prompt to sample from."""

    prompt: Text


class Response(Record):
    """A sampled response and the prompt it answers: what ``redline compare`` reads and writes."""

    prompt: Text
    response: Text


def as_text(text: Text) -> str:
    """A prompt or response as one string for people and lexicons to read: messages joined by blank lines."""
    if isinstance(text, str):
        return text
    return "\n\n".join(str(message.get("content") or "") for message in text)
