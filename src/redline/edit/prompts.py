"""The prompts an LLM editor is given: template files with named fields, and how its answer is read back."""

import re
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from redline.data.records import Text, ToEdit
from redline.errors import UserError

FOLDER = Path(__file__).parent / "templates"
BEGIN, END = "=== EDITED ===", "=== END ==="  # lines around the edit, in templates that ask for reasons first
NO_CHANGE = "NO CHANGE NEEDED"
GUIDELINE = "it does what the prompt asks, what it says is true, it is clear, and it harms nobody."
EDIT_FIELDS = {
    "prompt": True,
    "rejected": True,
    "chosen": False,
    "guideline": False,
}  # field -> a template must have it
VERIFY_FIELDS = dict.fromkeys(("prompt", "first", "second"), True) | {"guideline": False}


class NotParsed(Exception):
    """An answer that does not have the form its template asks for; the message says what is wrong, to the
    model."""


@dataclass(frozen=True)
class Template:
    """A prompt with fields. Its name is ``plain``, ``reasoned``, ``short`` or the file's path."""

    name: str
    text: str

    @property
    def fields(self) -> set[str]:
        return {field for _, field, _, _ in Formatter().parse(self.text) if field is not None}

    @property
    def delimited(self) -> bool:
        """Whether the template asks for the edit between the two delimiter lines."""
        return BEGIN in self.text

    def fill(self, **values: str) -> str:
        """The prompt for one record. Braces in the values are left alone."""
        return self.text.format(**{field: values[field] for field in self.fields})


def load_template(name: str, fields: dict[str, bool] = EDIT_FIELDS) -> Template:
    """The template ``plain``, ``reasoned`` or a file of the user's; ``fields`` says which it may have and
    which it must.

    Raises UserError, by name, for a field that is missing, unknown or malformed.
    """
    shipped = FOLDER / f"{name}.txt"
    path = shipped if re.fullmatch(r"\w+", name) and shipped.exists() else Path(name)
    try:
        template = Template(name, path.read_text(encoding="utf-8").strip())
        parts = list(Formatter().parse(template.text))
    except OSError as error:
        raise UserError(
            f"--template {name}: cannot be read ({error.strerror or error}). Give plain, reasoned, short or "
            "a file."
        ) from error
    except ValueError as error:  # not UTF-8, or a brace that opens nothing
        raise UserError(
            f"--template {name}: {error}. Write {{{{ and }}}} for braces that are no field."
        ) from error
    known = ", ".join(f"{{{field}}}" for field in fields)
    for _, field, form, conversion in parts:
        if field is not None and (field not in fields or form or conversion):
            raise UserError(
                f"--template {name}: unknown field {{{field}}}. Known: {known}. Write {{{{ and }}}} for "
                "braces that are no field."
            )
    missing = [field for field, needed in fields.items() if needed and field not in template.fields]
    if missing:
        raise UserError(
            f"--template {name}: the field {{{missing[0]}}} is missing. Put it where that text belongs."
        )
    if template.delimited and END not in template.text:
        raise UserError(
            f"--template {name}: it asks for {BEGIN} but not for {END}. Ask for both lines or for neither."
        )
    return template


def read_guideline(value: str) -> str:
    """The text of ``--guideline``: itself, or the file that ``@FILE`` names."""
    if not value.startswith("@"):
        return value.strip()
    try:
        return Path(value[1:]).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UserError(f"--guideline {value}: cannot be read ({error}).") from error


@dataclass(frozen=True)
class Parsed:
    """An answer taken apart: the edit (empty when nothing was to change), the reasons before it, the text
    after its end."""

    edited: str
    no_change: bool = False
    reason: str = ""
    after: str = ""


def parse_answer(answer: str, delimited: bool) -> Parsed:
    """Read an answer. Raises NotParsed where a delimiter line is missing or occurs twice."""
    reason, after, edited = "", "", answer
    if delimited:
        reason, edited = _split(answer, BEGIN)
        edited, after = _split(edited, END)
    if edited.strip().strip('.*"').upper() == NO_CHANGE:
        return Parsed("", True, reason.strip(), after.strip())
    return Parsed(edited, False, reason.strip(), after.strip())


def _split(text: str, line: str) -> tuple[str, str]:
    parts = re.split(rf"^[ \t]*{re.escape(line)}[ \t\r]*$", text, flags=re.MULTILINE)
    if len(parts) != 2:
        found = "is missing" if len(parts) == 1 else f"occurs {len(parts) - 1} times"
        raise NotParsed(f"the line {line} {found}; it must stand once, on a line of its own")
    return parts[0], parts[1]


def conversation(text: Text) -> str:
    """A prompt as one text: a conversation of several messages with the role before each."""
    if isinstance(text, str):
        return text
    if len(text) == 1:
        return _content(text[0])
    return "\n\n".join(
        f"{str(message.get('role', 'message')).capitalize()}: {_content(message)}" for message in text
    )


def response_text(response: Text) -> str:
    """The text that is edited: the response itself, or the content of a conversation's last assistant
    message."""
    return response if isinstance(response, str) else _content(response[_last(response)])


def with_text(response: Text, edited: str) -> Text:
    """``response`` with its text replaced, in the same form."""
    if isinstance(response, str):
        return edited
    place = _last(response)
    return [
        message | {"content": edited} if index == place else message for index, message in enumerate(response)
    ]


def _last(messages: list[dict]) -> int:
    places = [index for index, message in enumerate(messages) if message.get("role") == "assistant"]
    if not places or not isinstance(messages[places[-1]].get("content"), str):
        raise ValueError("the response has no assistant message with text")
    return places[-1]


def _content(message: dict) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else str(content or "")


def question(pair: ToEdit, template: Template, guideline: str) -> str:
    """The filled template for one pair. Raises ValueError where a response is a conversation without an
    assistant's text."""
    chosen = "" if pair.chosen is None else response_text(pair.chosen)
    rejected = response_text(pair.rejected)
    return template.fill(
        prompt=conversation(pair.prompt), rejected=rejected, chosen=chosen, guideline=guideline
    )
