"""Formats of training frameworks whose columns mean more than their names say."""

import json
from typing import Any

from redline.data.records import Message
from redline.data.row import Broken
from redline.types import Json, JsonObject


def alpaca(row: JsonObject) -> list[JsonObject]:
    """Alpaca's columns as LLaMA-Factory takes them: instruction, input, system, history; an output or two, or
    chosen and rejected."""
    if not isinstance(row.get("instruction"), str):
        raise Broken("instruction is empty")
    asked = [text for text in (row["instruction"], row.get("input")) if isinstance(text, str) and text]
    messages: list[Message] = []
    if isinstance(row.get("system"), str) and row["system"]:
        messages.append({"role": "system", "content": row["system"]})
    for turn in row.get("history") or []:
        if not (isinstance(turn, list) and len(turn) == 2):
            raise Broken("history is no list of pairs, each a question and its answer")
        messages.append({"role": "user", "content": turn[0]})
        messages.append({"role": "assistant", "content": turn[1]})
    messages.append({"role": "user", "content": "\n".join(asked)})
    used = ("instruction", "input", "system", "history", "prompt")
    rest = {name: value for name, value in row.items() if name not in used}
    output = rest.get("output")
    if isinstance(output, list) and len(output) == 2:
        rest |= {"chosen": output[0], "rejected": output[1]}
        del rest["output"]
    return [{"prompt": messages, **rest}]


def openai(row: JsonObject) -> list[JsonObject]:
    """OpenAI's preference format: input.messages, preferred_output, non_preferred_output, input.tools."""
    asked = row.get("input")
    if not isinstance(asked, dict) or not isinstance(asked.get("messages"), list):
        raise Broken("input holds no `messages`")
    used = ("input", "preferred_output", "non_preferred_output")
    rest = {name: value for name, value in row.items() if name not in used}
    record = {
        "prompt": asked["messages"],
        "tools": asked.get("tools"),
        "chosen": row.get("preferred_output"),
        "rejected": row.get("non_preferred_output"),
    }
    for name, value in record.items():
        if value is not None:
            rest[name] = value
    return [rest]


def as_json(value: Json) -> Any:
    """What a cell holds as JSON, else the value itself."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
