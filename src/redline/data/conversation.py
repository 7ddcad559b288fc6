"""Conversations as people have them, made into ours: a prompt that ends before the assistant's turn, and
sides that are that turn.

Ours are lists of ``{"role", "content"}`` with text as content. Read are also ShareGPT's `from` and `value`, a
single message, content as a list of parts, no content beside tool calls, and all of this as JSON in a cell.
"""

import ast
import json
import re
from collections.abc import Callable
from typing import Any

from redline.data.records import Message, Text
from redline.data.row import Broken
from redline.types import Config, Json, JsonObject

ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
}  # other people's names of roles -> ours; what is not here stays
TEXT_PARTS = ("text", "input_text", "output_text")
CONTENT = ("content", "value", "parts")  # where a message's text may be
MARKERS = ("role", "from")  # one of these makes an object a message
Note = Callable[[str], None]


def as_text_or_messages(name: str, value: Json, note: Note) -> Text:
    """The value of a text field. Raises Broken for what is neither text nor messages."""
    if isinstance(value, str):
        inside = _inside_cell(name, value)
        if inside is None:
            return value
        note(f"{name}: JSON inside a cell is read as messages")
        value = inside
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        value = value["messages"]
    if _is_message(value):
        value = [value]
    if isinstance(value, list) and value and all(isinstance(answer, str) for answer in value):
        if len(value) > 1:
            note(f"{name}: of several texts the first is read")
        return str(value[0])
    if not isinstance(value, list):
        raise Broken(f"{name} is neither text nor a list of messages")
    if not all(isinstance(message, dict) for message in value):
        raise Broken(f"{name} is a list, but not of messages")
    return [message_of(f"{name}.{place}", message) for place, message in enumerate(value)]


def _is_message(value: Json) -> bool:
    return isinstance(value, dict) and any(isinstance(value.get(marker), str) for marker in MARKERS)


def _inside_cell(name: str, text: str) -> Any:
    """Messages that a cell holds as JSON, or as Python prints them; None for text that is text."""
    start = text.lstrip()[:1]
    if start not in ("[", "{") or not re.search(r"""["'](role|from)["']\s*:""", text):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = _printed_by_python(name, text)
    messages = value if isinstance(value, list) else [value]
    return value if messages and all(map(_is_message, messages)) else None


def _printed_by_python(name: str, text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        pass
    if re.match(r"\s*\[\s*\{\s*'(role|content|from|value)'\s*:", text):  # an array of NumPy's has no commas
        raise Broken(f"{name} is a list of messages as Python prints it; save it as JSON Lines or Parquet")
    return None


def message_of(place: str, message: JsonObject) -> Message:
    """One message with `role` and `content` as text; other keys that hold something stay."""
    role = message.get("role", message.get("from"))
    if not isinstance(role, str):
        raise Broken(f"{place} is no message with `role` and `content`")
    rest = {}
    for key, value in message.items():
        if value is not None and key not in ("role", "from", *CONTENT):
            rest[key] = value
    if "role" in message and "from" in message:
        rest["from"] = message["from"]
    contents = [message[key] for key in CONTENT if message.get(key) is not None]
    content = contents[0] if contents else None
    if role == "function_call" and isinstance(content, str):
        rest["tool_calls"] = _call_as_text(place, content)
        content = None
    calls = rest.get("tool_calls") or rest.get("function_call")
    text = _content(place, content, may_lack=bool(calls), given="content" in message or "value" in message)
    return {"role": ROLES.get(role, role), "content": text} | rest


def _content(place: str, content: Json, may_lack: bool, given: bool) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        if may_lack:
            return ""
        if given:
            raise Broken(f"{place} has no content")
        raise Broken(f"{place} is no message with `role` and `content`")
    parts = content if isinstance(content, list) else [content]
    return "".join(_part(place, part) for part in parts)


def _part(place: str, part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = type(part).__name__
    if isinstance(part, dict):
        kind, text = part.get("type", "text"), part.get("text")
        if kind in TEXT_PARTS and isinstance(text, str):
            return str(text)
    raise Broken(f"{place} has a part that is no text; only text is read ({kind})")


def _call_as_text(place: str, content: str) -> list[JsonObject]:
    """LLaMA-Factory's turn `function_call`: the call, or several, as JSON."""
    try:
        calls = json.loads(content)
    except (ValueError, RecursionError):
        raise Broken(f"{place} is a function call that is no JSON") from None
    calls = calls if isinstance(calls, list) else [calls]
    return [{"type": "function", "function": call} for call in calls]


def transcript(name: str, text: Config) -> Text:
    """HH-RLHF: turns `Human:` and `Assistant:`, each after an empty line."""
    if not isinstance(text, str):
        raise Broken(f"{name} is no transcript")
    before, *parts = re.split(r"(?:^|\n\n)(Human|Assistant):", text)
    if before.strip() or not parts:
        raise Broken(f"{name} is no transcript of turns `Human:` and `Assistant:`, each after an empty line")
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": roles[who], "content": said.strip()} for who, said in turns]


def with_system(prompt: Text, system: str, tools: Any = None) -> Text:
    """The prompt with a system turn in front, and the tools that the assistant can call on its first message,
    from where ``chat_template.render`` takes them."""
    messages = prompt
    if system.strip():
        asked: list[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if not (asked and asked[0]["role"] == "system"):
            messages = [{"role": "system", "content": system}, *asked]
    if tools and isinstance(messages, list) and messages:
        messages = [{**messages[0], "tools": tools}, *messages[1:]]
    return messages


def arrange(prompt: Text, sides: dict[str, Text], note: Note) -> tuple[Text, dict[str, Text]]:
    """The prompt up to the assistant's turn, and each side as that turn alone.

    Sides may be whole conversations that repeat the prompt, or that only together show what the prompt is:
    the messages with which all of them begin. What follows a side's last assistant's turn is cut off. Raises
    Broken where the sides part before that turn, do not belong to the prompt, or have no such turn.
    """
    if not sides:
        return _without_answer(prompt, note), sides
    if isinstance(prompt, str) and all(isinstance(side, str) for side in sides.values()):
        return prompt, sides
    answers = {name: _up_to_the_answer(name, side, note) for name, side in sides.items()}
    asked = _asked(prompt, list(answers.values()))
    answers = {name: _without_prompt(name, side, asked) for name, side in answers.items()}
    asked, answers = _shared_moved(asked, answers)
    turns = list(answers.values())
    if not asked:
        if any(len(turn) > 1 or "tool_calls" in turn[0] for turn in turns):
            raise Broken("prompts do not match")
        return "", {name: str(turn[0]["content"]) for name, turn in answers.items()}
    by_assistant = [turn[0]["role"] == "assistant" for turn in turns]
    if any(len(turn) > 1 for turn in turns) and any(by_assistant):
        raise Broken("the sides part before their last assistant's turn")
    if not all(by_assistant):
        raise Broken("prompts do not match")
    arranged: dict[str, Text] = {}
    for name, side in sides.items():
        arranged[name] = side if isinstance(side, str) else answers[name]
    return asked, arranged


def _without_answer(prompt: Text, note: Note) -> Text:
    """A prompt alone, up to the turn that the assistant is to answer."""
    if isinstance(prompt, str) or not prompt or prompt[-1]["role"] != "assistant":
        return prompt
    note("prompts that end with the assistant's turn are cut before it")
    end = len(prompt)
    while end and prompt[end - 1]["role"] == "assistant":
        end -= 1
    return prompt[:end]


def _up_to_the_answer(name: str, side: Text, note: Note) -> list[Message]:
    if isinstance(side, str):
        return [{"role": "assistant", "content": side}]
    places = [place for place, message in enumerate(side) if message["role"] == "assistant"]
    if not places:
        raise Broken(f"{name} has no assistant's turn" if side else f"{name} is empty")
    if places[-1] + 1 < len(side):
        note("what follows the assistant's last turn is cut off")
    return side[: places[-1] + 1]


def _asked(prompt: Text, answers: list[list[Message]]) -> list[Message]:
    """The prompt's messages: without the answer, where it holds that too; none where the sides show it."""
    if isinstance(prompt, str):
        are_whole = all(len(side) > 1 for side in answers)
        if are_whole or not prompt.strip():
            return []
        return [{"role": "user", "content": prompt}]
    if _end_with(answers, prompt):
        return []
    if not prompt or prompt[-1]["role"] != "assistant":
        return prompt
    if any(_same(prompt[-1], side[-1]) for side in answers):
        return prompt[:-1]
    raise Broken("prompt ends with an assistant's turn that is neither side; end it with the user's")


def _end_with(answers: list[list[Message]], prompt: list[Message]) -> bool:
    """Whether all sides repeat the prompt with more before it: a system turn that the prompt lacks."""
    size = len(prompt)
    if not prompt:
        return False
    for side in answers:
        if len(side) <= size + 1 or not all(map(_same, side[-size - 1 : -1], prompt)):
            return False
    return True


def _without_prompt(name: str, side: list[Message], asked: list[Message]) -> list[Message]:
    """The side less the end of the prompt with which it begins, whole or from some message on."""
    for size in range(min(len(asked), len(side) - 1), 0, -1):
        if all(map(_same, asked[-size:], side[:size])):
            return side[size:]
    if asked and len(side) > 1 and side[0]["role"] != "assistant":
        raise Broken("prompts do not match")
    return side


def _shared_moved(
    asked: list[Message], answers: dict[str, list[Message]]
) -> tuple[list[Message], dict[str, list[Message]]]:
    """The prompt with the messages that all sides begin with, and the sides without them."""
    rests = list(answers.values())
    shared = 0
    while all(shared < len(rest) - 1 and _same(rest[shared], rests[0][shared]) for rest in rests):
        shared += 1
    return [*asked, *rests[0][:shared]], {name: rest[shared:] for name, rest in answers.items()}


def _same(first: Message, second: Message) -> bool:
    keys = ("role", "content", "tool_calls")
    return all(first.get(key) == second.get(key) for key in keys)
