"""Conversations by a tokenizer's chat template, and what of the result is the assistant's own text.

A model answers behind the *generation prompt*: the rendered prompt with the opening of the assistant's turn.
The response is what the template renders behind it once the answer is known. Templates do more than wrap:
they trim, put an empty thought in front, drop earlier thoughts, open a thought for the model, refuse roles.
``answer`` says which characters are the assistant's own, so that no mark of the template is ever labelled.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from redline.data.records import Message, Text, as_text
from redline.errors import UserError
from redline.types import JsonObject, Network

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THOUGHT, THOUGHT_END = "<think>", "</think>"
OTHER_TEMPLATE = "another template can be given with `model.chat_template`"
TRIMS = f"the chat template trims white space of the answer, and labels say nothing of it; {OTHER_TEMPLATE}"
STRIPS = (
    "the chat template strips the thought from the answer, and labels say nothing of it; "
    f"`model.chat_template_kwargs` may keep it, or {OTHER_TEMPLATE}"
)
CHANGES = f"the chat template changes the text of the answer; {OTHER_TEMPLATE}"


class CannotRender(UserError):
    """A conversation that this chat template refuses, or renders so that no response can be told from it."""


class Turn(NamedTuple):
    """A response as the model writes it behind the generation prompt, with the template's end of the turn.

    ``text[start:end]`` is the assistant's own; what surrounds it are marks of the template.
    """

    text: str
    start: int
    end: int


def render(tokenizer: "PreTrainedTokenizerBase", messages: list[Message], to_answer: bool) -> str:
    """Messages by the tokenizer's own chat template; ``to_answer`` ends with the opening of the assistant's
    turn.

    A message may carry ``tools``, the functions that the assistant can call: they reach the template as its
    ``tools``. What ``load_tokenizer`` was given as ``chat_template_kwargs`` reaches it too. Raises UserError
    without a template, CannotRender where the template refuses the conversation.
    """
    import jinja2

    if not tokenizer.chat_template:
        raise UserError(
            f"{tokenizer.name_or_path}: prompts are messages, but this tokenizer has no chat template. Use "
            "an instruction-tuned model's tokenizer, give a template with `model.chat_template`, or give "
            "prompts as plain text."
        )
    plain, tools = split_tools(messages)
    switches = template_kwargs(tokenizer)
    try:
        text = tokenizer.apply_chat_template(
            plain, tools=tools, tokenize=False, add_generation_prompt=to_answer, **switches
        )
    except (jinja2.TemplateError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        why = " ".join(str(error).split()).replace("(", "[").replace(")", "]")
        raise CannotRender(f"the chat template refuses the conversation; {OTHER_TEMPLATE} ({why})") from error
    return str(text)


@contextmanager
def pinned_date(date: str) -> Iterator[None]:
    """Inside, templates print this date (``2026-11-30``) for today's: a run that goes on after midnight has
    the prompts that it began with. Transformers' templates ask its module's ``datetime``, and take no other
    function from outside."""
    import transformers.utils.chat_template_utils

    module: Network = transformers.utils.chat_template_utils
    began = datetime.fromisoformat(date)

    class Pinned(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return began

    before, module.datetime = module.datetime, Pinned
    try:
        yield
    finally:
        module.datetime = before


def template_kwargs(tokenizer: "PreTrainedTokenizerBase") -> JsonObject:
    """What the template is given beside the messages, such as ``{"enable_thinking": False}``.

    It lies among the tokenizer's own settings, which ``save_pretrained`` writes: a trained model's folder
    renders as the model did that it was trained from.
    """
    return dict(tokenizer.init_kwargs.get("chat_template_kwargs") or {})


def split_tools(messages: list[Message]) -> tuple[list[Message], list[Any] | None]:
    """The messages as templates take them, and the tools that one of them carries (None without any)."""
    tools = next((message["tools"] for message in messages if message.get("tools")), None)
    return [_for_template(message) for message in messages], tools


def _for_template(message: Message) -> Message:
    """Without ``tools``; no content as empty text; tool calls' arguments as objects, as templates expect."""
    plain = {name: value for name, value in message.items() if name != "tools"}
    if plain.get("content") is None:
        plain["content"] = ""
    calls = plain.get("tool_calls")
    if isinstance(calls, list):
        plain["tool_calls"] = [_with_arguments(call) for call in calls]
    return plain


def _with_arguments(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def answer(tokenizer: "PreTrainedTokenizerBase", prompt: list[Message], response: Text) -> Turn:
    """The response to a prompt of messages, as the template writes it; plain text is the assistant's turn.

    Raises CannotRender where the template refuses the conversation, changes the prompt once the response
    follows, or writes nothing of the response.
    """
    turns: list[Message] = response if isinstance(response, list) else []
    if isinstance(response, str):
        turns = [{"role": "assistant", "content": response}]
    before = render(tokenizer, prompt, True)
    whole = render(tokenizer, [*prompt, *turns], False)
    last = turns[-1] if turns else {}
    if whole.startswith(before):
        text = whole[len(before) :]
    else:
        text = _behind_prefill(before, whole, render(tokenizer, prompt, False), last)
    start, end = _own_text(tokenizer, text, last)
    if last.get("tool_calls") and start == end:
        raise CannotRender(f"the chat template writes no tool calls; {OTHER_TEMPLATE}")
    return Turn(text, start, end)


def lost(turn: Turn, response: Text) -> str | None:
    """What the template does to the text of a response that it does not write as it is, and the key that
    helps; None where it writes all of it."""
    content = response if isinstance(response, str) else as_text(response[-1:])
    if content in turn.text or not content.strip():
        return None
    thought, closed, visible = content.rpartition(THOUGHT_END)
    thought = thought.strip().removeprefix(THOUGHT).strip()
    if visible.strip() not in turn.text:
        return CHANGES
    return STRIPS if closed and thought not in turn.text else TRIMS


def _behind_prefill(before: str, whole: str, asked: str, last: Message) -> str:
    """The response where the generation prompt holds more than the opening of the finished turn: a thought.

    A thought that the prompt opens and closes is the prompt's: the model answers behind it. One that it
    leaves open is for the response to close; without that, nobody knows what the model would have thought.
    """
    generation = before[len(asked) :]
    if not (before.startswith(asked) and whole.startswith(asked)) or THOUGHT not in generation:
        raise CannotRender(
            f"the chat template renders the prompt differently once the response follows; {OTHER_TEMPLATE}"
        )
    opening = generation[: generation.index(THOUGHT)]
    answered = whole[len(asked) + len(opening) :]
    content = as_text([last])
    _, closed, visible = content.rpartition(THOUGHT_END)
    if THOUGHT_END in generation:
        if closed:
            raise CannotRender(
                "the response holds a thought, and the generation prompt has thinking switched off; "
                "`model.chat_template_kwargs` switches it on (enable_thinking: true)"
            )
        return answered
    if not closed:
        raise CannotRender(
            f"the chat template opens a thought ({THOUGHT}) that the response does not close; "
            "`model.chat_template_kwargs` may switch it off (enable_thinking: false), or "
            f"{OTHER_TEMPLATE}"
        )
    written = content.lstrip().removeprefix(THOUGHT)
    if generation.endswith("\n"):
        written = written.lstrip("\n")
    place = answered.rfind(visible.strip())
    return written + answered[place + len(visible.strip()) :]


def _own_text(tokenizer: "PreTrainedTokenizerBase", text: str, last: Message) -> tuple[int, int]:
    """Where the assistant's own text starts and ends in a rendered turn, as the template left it."""
    content = as_text([last])
    unended = len(without_end(tokenizer, text))
    if last.get("tool_calls"):
        start = max(text.find(content.strip()), 0)
        return (start, unended) if text[:unended].strip() else (unended, unended)
    visible = content.rpartition(THOUGHT_END)[2].strip()
    place = -1
    for own in (content, content.strip(), visible):
        place = text.rfind(own) if own.strip() else -1
        if place >= 0:
            break
    if place < 0:  # nothing was said, or the template changed it: then all that it wrote
        return (0 if content.strip() else unended), unended
    has_thought = THOUGHT_END in content or bool(last.get("reasoning_content") or last.get("thinking"))
    start = place
    if has_thought and THOUGHT_END in text[:place]:
        start = max(text.rfind(THOUGHT, 0, place), 0)
    return start, place + len(without_end(tokenizer, own))


def without_end(tokenizer: "PreTrainedTokenizerBase", text: str) -> str:
    """A rendered turn without the special tokens, and the white space behind them, that close it."""
    found = _end_marks(tokenizer, len(tokenizer)).search(text)
    return text[: found.start()] if found else text


@lru_cache(maxsize=4)
def _end_marks(tokenizer: "PreTrainedTokenizerBase", _: int) -> re.Pattern[str]:
    """What matches the closing special tokens. Kept for each size, since tokens can be added."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    special = sorted({*added, *tokenizer.all_special_tokens}, key=len, reverse=True)
    any_mark = "|".join(re.escape(token) for token in special) or "(?!)"
    return re.compile(rf"(?:(?:{any_mark})\s*)+\Z")
