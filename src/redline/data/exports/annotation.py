"""Exports of annotation tools: what people did with an item becomes a row for each person who finished it."""

from typing import Any

from redline.data.columns import SUBMITTED
from redline.data.row import Broken
from redline.types import JsonObject

Rows = list[JsonObject]


def label_studio(task: JsonObject) -> Rows:
    """Label Studio's JSON: the task's `data`, and of each annotation its results under their `from_name`.

    Rows carry `id` (the task's; of a further annotation with its number) and `editor`. JSON-MIN is flat
    already and comes out as it is.
    """
    if not isinstance(task.get("data"), dict):
        return [task]
    annotations = task.get("annotations") or task.get("completions") or []
    finished = [one for one in annotations if isinstance(one, dict) and not one.get("was_cancelled")]
    if not finished:
        raise Broken("the task has no annotation" if not annotations else "the annotation was skipped")
    made: Rows = []
    for number, annotation in enumerate(finished, 1):
        row = dict(task["data"])
        row["id"] = _numbered(task.get("id"), number)
        row["editor"] = _person(annotation.get("completed_by"))
        for result in annotation.get("result") or []:
            if isinstance(result, dict) and "from_name" in result:
                row[str(result["from_name"])] = _result(result)
        made.append(row)
    return made


def _result(result: JsonObject) -> Any:
    """The value of one control: a text area's text, a choice, a rating, the side picked."""
    value = result.get("value")
    if not isinstance(value, dict):
        return value
    held = value.get(str(result.get("type")), value.get("text", value.get("selected")))
    if isinstance(held, list) and len(held) == 1:
        return held[0]
    return "\n".join(held) if isinstance(held, list) and all(isinstance(line, str) for line in held) else held


def _numbered(name: Any, number: int) -> Any:
    return name if number == 1 or name is None else f"{name}-{number}"


def _person(who: Any) -> Any:
    return who.get("email", who.get("id")) if isinstance(who, dict) else who


def argilla(record: JsonObject) -> Rows:
    """Argilla's records, nested or flat: the fields, and each person's submitted answers by question.

    Rows carry `editor` (the person's id) and `id` (of a second person with a number).
    """
    fields = {name: value for name, value in record.items() if not _is_question(record, name)}
    if isinstance(record.get("fields"), dict):
        fields = {**record["fields"], "id": record.get("id")}
    people: dict[str, JsonObject] = {}
    for question, answers in _questions(record).items():
        for person, value, status in answers:
            if status in SUBMITTED:
                people.setdefault(person, {})[question] = value
    if not people:
        raise Broken("the record has no submitted response")
    made: Rows = []
    for number, (person, values) in enumerate(people.items(), 1):
        row = fields | values | {"editor": person}
        row["id"] = _numbered(fields.get("id"), number)
        made.append(row)
    return made


def _is_question(record: JsonObject, name: str) -> bool:
    return ".responses" in name or name in _questions(record)


def _questions(record: JsonObject) -> dict[str, list[tuple[str, Any, Any]]]:
    """Each question's answers: person, value, status."""
    found: dict[str, list[tuple[str, Any, Any]]] = {}
    nested = record.get("responses")
    lists = nested if isinstance(nested, dict) else record
    for name, answers in lists.items():
        is_list = isinstance(answers, list) and answers and all(isinstance(one, dict) for one in answers)
        if is_list and all("value" in one for one in answers):
            found[name] = [
                (str(one.get("user_id", place)), one["value"], one.get("status"))
                for place, one in enumerate(answers)
            ]
        elif name.endswith(".responses") and isinstance(answers, list):
            people = record.get(f"{name}.users") or list(range(len(answers)))
            states = record.get(f"{name}.status") or [None] * len(answers)
            triples = zip(people, answers, states, strict=False)
            found[name.removesuffix(".responses")] = [(str(who), said, state) for who, said, state in triples]
    return found


def prodigy(task: JsonObject) -> Rows:
    """Prodigy's JSON Lines: accepted tasks; the one option that was picked of two becomes `chosen`, the other
    `rejected`."""
    verdict = task.get("answer", "accept")
    if verdict != "accept":
        raise Broken(f"the annotator did not accept the task ({verdict})")
    row = dict(task)
    row.setdefault("editor", task.get("_annotator_id") or task.get("_session_id"))
    options, picked = task.get("options"), task.get("accept")
    if isinstance(options, list) and isinstance(picked, list) and len(picked) == 1:
        texts = {option.get("id"): option.get("text") for option in options if isinstance(option, dict)}
        others = [text for name, text in texts.items() if name != picked[0]]
        if picked[0] in texts and len(others) == 1:
            row |= {"chosen": texts[picked[0]], "rejected": others[0]}
    if "user_input" in task and "text" in task:
        row = {"rejected": task["text"], "edited": task["user_input"]} | row
    if "_task_hash" in task:
        row.setdefault("id", task["_task_hash"])
    return [row]


def doccano(example: JsonObject) -> Rows:
    """doccano's JSON Lines for sequence to sequence: `text` was rewritten as each of `label`."""
    texts = example.get("label", example.get("labels"))
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise Broken("the example has no rewritten text in `label`")
    used = ("text", "label", "labels")
    rest = {name: value for name, value in example.items() if name not in used}
    return [
        {**rest, "id": _numbered(example.get("id"), number), "rejected": example.get("text"), "edited": text}
        for number, text in enumerate(texts, 1)
    ]
