"""Templates and answers: what is refused by name, what is filled in, what is read back."""

from pathlib import Path

import pytest

from redline.edit.prompts import (
    BEGIN,
    END,
    VERIFY_FIELDS,
    NotParsed,
    conversation,
    load_template,
    parse_answer,
    read_guideline,
    response_text,
    with_text,
)
from redline.errors import UserError

VALUES = {"prompt": "{x} and {{y}}", "rejected": "bad {rejected}", "chosen": "good", "guideline": "be kind"}


@pytest.mark.parametrize("name", ["plain", "reasoned"])
def test_shipped_templates_hold_every_value_once(name: str) -> None:
    template = load_template(name)
    filled = template.fill(**VALUES)
    assert filled.count("{x} and {{y}}") == filled.count("bad {rejected}") == filled.count("be kind") == 1
    assert template.delimited == (name == "reasoned") == ("chosen" in template.fields)


def test_verify_template() -> None:
    filled = load_template("verify", VERIFY_FIELDS).fill(
        prompt="Q", first="answer A", second="answer B", guideline="be kind"
    )
    assert filled.index("answer A") < filled.index("answer B")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Edit {rejected}", "field {prompt} is missing"),
        ("Edit {prompt}", "field {rejected} is missing"),
        ("{prompt} {rejected} {answer}", "unknown field {answer}"),
        ("{prompt} {rejected} {}", "unknown field {}"),
        ("{prompt!r} {rejected}", "unknown field {prompt}"),
        ("{prompt} {rejected.text}", "unknown field {rejected.text}"),
        ("{prompt} {rejected", "expected '}'"),
        ("{prompt} } {rejected}", "Single '}'"),
        (f"{{prompt}} {{rejected}} {BEGIN}", f"not for {END}"),
    ],
)
def test_broken_template_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.txt"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_template(str(file))
    assert message in str(error.value)
    assert "mine.txt" in str(error.value)
    assert "\n" not in str(error.value)


def test_own_template(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("Mend {rejected} for {prompt}; JSON looks like {{}}.", encoding="utf-8")
    template = load_template(str(file))
    assert template.fill(**VALUES) == "Mend bad {rejected} for {x} and {{y}}; JSON looks like {}."
    with pytest.raises(UserError, match=r"nothere\.txt: cannot be read"):
        load_template("nothere.txt")


def test_guideline(tmp_path: Path) -> None:
    file = tmp_path / "guide.md"
    file.write_text("be kind\n", encoding="utf-8")
    assert read_guideline(f"@{file}") == read_guideline("be kind") == "be kind"
    with pytest.raises(UserError, match="cannot be read"):
        read_guideline(f"@{tmp_path}/nothere")


def test_answers_with_reasons() -> None:
    parsed = parse_answer(f"The first is true.\n{BEGIN}\nnew text\nin lines\n{END}\n", delimited=True)
    assert (parsed.reason, parsed.edited.strip(), parsed.after, parsed.no_change) == (
        "The first is true.",
        "new text\nin lines",
        "",
        False,
    )
    assert (
        parse_answer(f"why\n{BEGIN}\nnew\n{END}\nHope this helps!", delimited=True).after
        == "Hope this helps!"
    )
    assert parse_answer(f"why\r\n{BEGIN}\r\nnew\r\n{END}\r\n", delimited=True).edited.strip() == "new"
    assert parse_answer(f"why\n{BEGIN}\nNo change needed.\n{END}", delimited=True).no_change
    assert parse_answer("NO CHANGE NEEDED", delimited=False).no_change
    assert not parse_answer("There is no change needed here", delimited=False).no_change


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        ("just the text", f"{BEGIN} is missing"),
        (f"why\n{BEGIN}\nnew", f"{END} is missing"),
        (f"{BEGIN}\n{BEGIN}\nnew\n{END}", "occurs 2 times"),
        (f"I write {BEGIN} here\nnew\n{END}", f"{BEGIN} is missing"),
    ],
)
def test_answers_in_the_wrong_form(answer: str, wrong: str) -> None:
    with pytest.raises(NotParsed, match=wrong):
        parse_answer(answer, delimited=True)


def test_messages() -> None:
    messages = [
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "go on"},
        {"role": "assistant", "content": "two", "name": "a"},
    ]
    assert response_text(messages) == "two"
    assert with_text(messages, "three") == [
        *messages[:2],
        {"role": "assistant", "content": "three", "name": "a"},
    ]
    assert messages[2]["content"] == "two"
    assert with_text("two", "three") == "three"
    assert conversation([{"role": "user", "content": "Hi"}]) == "Hi"
    assert conversation(messages[:2]) == "Assistant: one\n\nUser: go on"
    with pytest.raises(ValueError, match="no assistant message"):
        response_text([{"role": "user", "content": "Hi"}])
