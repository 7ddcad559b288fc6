"""``redline edit`` and ``redline edits`` as a user meets them: what they print, what they write, what they
refuse."""

import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from faulty_endpoint import by_rule, pairs, serving

from redline.cli import main
from redline.data.records import ToEdit
from redline.edit.editor import AGAIN
from redline.edit.llm import edit_pairs
from redline.edit.prompts import BEGIN, END
from redline.edit.settings import EditWith
from redline.errors import UserError
from redline.recipe import load_recipe
from redline.run.run import Run

Redline = Callable[..., "Ended"]


@dataclass
class Ended:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def redline(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """The command line, in this process."""

    def call(*arguments: str, key: str = "") -> Ended:
        monkeypatch.setenv("OPENAI_API_KEY", key)
        monkeypatch.setattr("sys.argv", ["redline", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture
def given(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs(12)), encoding="utf-8")
    return path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def to_edit(count: int) -> list[ToEdit]:
    return [ToEdit.model_validate(pair) for pair in pairs(count)]


def test_dry_run_asks_nobody_and_writes_nothing(redline: Redline, given: Path, tmp_path: Path) -> None:
    ended = redline(
        "edit",
        str(given),
        "--out",
        str(tmp_path / "e.jsonl"),
        "--model",
        "m",
        "--base-url",
        "https://127.0.0.1:9/v1",
        "--dry-run",
        "--price-in",
        "1000",
        "--price-out",
        "1000",
        "--guideline",
        "it says good",
    )
    assert ended.returncode == 0, ended.stderr
    assert re.findall(r"^--- prompt for (\w+) ---$", ended.stdout, re.MULTILINE) == ["p0", "p1", "p2"]
    assert ended.stdout.count("Better means: it says good") == 3
    told = re.search(
        r"12 pairs: about ([\d,]+) tokens in and ([\d,]+) out, cost about ([\d.]+)", ended.stdout
    )
    assert told is not None
    tokens = int(told[1].replace(",", "")) + int(told[2].replace(",", ""))
    assert float(told[3]) == pytest.approx(tokens * 1000 / 1e6, abs=0.01)
    assert os.listdir(tmp_path) == ["pairs.jsonl"]


def test_a_dry_run_shows_no_terminal_commands(redline: Redline, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(pairs(1)[0] | {"rejected": "bad \x1b[31m text"}) + "\n", encoding="utf-8")
    shown = redline("edit", str(path), "--out", str(tmp_path / "e.jsonl"), "--model", "m", "--dry-run").stdout
    assert "bad ␛[31m text" in shown
    assert "\x1b" not in shown


def test_columns_are_mapped(redline: Redline, tmp_path: Path) -> None:
    rows = [{"key": 7, "question": "Q", "worse": "the answer p7 is bad, as far as I can tell", "score": 3}]
    (tmp_path / "own.json").write_text(json.dumps(rows), encoding="utf-8")
    with serving() as server:
        ended = redline(
            "edit",
            str(tmp_path / "own.json"),
            "--out",
            str(tmp_path / "e.jsonl"),
            "--model",
            "m",
            "--base-url",
            server.url,
            "--template",
            "plain",
            "--columns",
            "id=key",
            "--columns",
            "prompt=question",
            "--columns",
            "rejected=worse",
        )
    assert ended.returncode == 0, ended.stderr
    line = lines(tmp_path / "e.jsonl")[0]
    assert (line["id"], line["prompt"], line["score"]) == ("7", "Q", 3)
    assert line["edited"] == "the answer p7 is good, as far as I can tell"


def test_limit_and_cost(redline: Redline, given: Path, tmp_path: Path) -> None:
    with serving() as server:
        ended = redline(
            "edit",
            str(given),
            "--out",
            str(tmp_path / "e.jsonl"),
            "--model",
            "m",
            "--base-url",
            server.url,
            "--limit",
            "5",
            "--price-in",
            "2",
            "--price-out",
            "8",
        )
    assert ended.returncode == 1, ended.stderr  # not one edit was accepted
    assert (
        ended.stderr.count("5 pairs: 0 accepted (0 need no change), 5 refused") == 1
    )  # reasoned: it gives no delimiter lines
    assert "refused      5  parsed" in ended.stderr
    assert "15 answers, 15 refused by a gate" in ended.stderr
    assert "1,500 tokens in, 150 out, cost 0.00" in ended.stderr
    assert [line["id"] for line in lines(tmp_path / "e.rejects.jsonl")] == ["p0", "p1", "p2", "p3", "p4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base-url", "https://127.0.0.1:9/v1"], "no key. Set OPENAI_API_KEY"),
        (["--base-url", "http://127.0.0.1:9/v1"], "cannot be reached"),
        (["--base-url", "127.0.0.1:9"], "not a URL"),
        (["--base-url", "http://h:80x/v1"], "not a URL"),
        (["--base-url", "http://[::1"], "not a URL"),
        (["--template", "nothere.txt"], "nothere.txt: cannot be read"),
        (["--max-ratio", "1.5"], "--max-ratio: Input should be less than or equal to 1"),
        (["--skip-gate", "taste"], "--skip-gate: Input should be"),
        (["--skip-gate", "parsed"], "--skip-gate: Input should be"),
        (["--guideline", "@nothere.md"], "--guideline @nothere.md: cannot be read"),
        (["--quoting", "odd"], "--quoting: Input should be"),
        (["--columns", "rejected"], "--columns rejected: write it as key=value"),
        (["--format", "xml"], "--format: Input should be"),
        (["--model", "./nomodel"], "there is no such model folder"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    redline: Redline, given: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    ended = redline("edit", str(given), "--out", str(tmp_path / "e.jsonl"), "--model", "m", *arguments)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "Traceback" not in ended.stderr
    assert os.listdir(tmp_path) == ["pairs.jsonl"]


def test_a_refused_key_stops_the_run(redline: Redline, given: Path, tmp_path: Path) -> None:
    with serving() as server:
        ended = redline(
            "edit",
            str(given),
            "--out",
            str(tmp_path / "e.jsonl"),
            "--model",
            "m",
            "--base-url",
            server.url.replace("/v1", "/other"),
        )
        assert ended.returncode == 2
        assert "model or path not found" in ended.stderr
        server.statuses = {"*": 401}
        ended = redline(
            "edit",
            str(given),
            "--out",
            str(tmp_path / "f.jsonl"),
            "--model",
            "m",
            "--base-url",
            server.url,
            key="sk-secret-1234",
        )
    assert ended.returncode == 2
    assert "the key was refused" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "sk-secret" not in ended.stderr
    assert not (tmp_path / "f.jsonl").exists()


def test_a_request_that_the_endpoint_refuses_is_a_counted_reject(tmp_path: Path) -> None:
    with serving() as server:
        server.statuses = {"p2": 400}
        counts = edit_pairs(
            to_edit(5), tmp_path / "e.jsonl", EditWith(model="m", base_url=server.url, template="plain")
        )
    assert (counts.accepted, dict(counts.refused)) == (4, {"request": 1})
    assert [line["id"] for line in lines(tmp_path / "e.rejects.jsonl")] == ["p2"]


def test_an_endpoint_that_refuses_every_request_finishes_nothing(tmp_path: Path) -> None:
    with serving() as server:
        server.statuses = {"*": 400}
        for count in (3, 30):
            with pytest.raises(UserError, match="no such parameter"):
                edit_pairs(
                    to_edit(count),
                    tmp_path / "e.jsonl",
                    EditWith(model="m", base_url=server.url, template="plain"),
                )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("given", ["pairs.jsonl", "e.jsonl", "e.rejects.jsonl"])
def test_pairs_are_not_written_over(redline: Redline, tmp_path: Path, given: str) -> None:
    (tmp_path / given).write_text(json.dumps(pairs(1)[0]) + "\n", encoding="utf-8")
    out = tmp_path / "link.jsonl" if given == "pairs.jsonl" else tmp_path / "e.jsonl"
    if given == "pairs.jsonl":
        out.symlink_to(given)
    ended = redline(
        "edit",
        str(tmp_path / given),
        "--out",
        str(out),
        "--model",
        "m",
        "--base-url",
        "http://127.0.0.1:9/v1",
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "would be written over, but is read here" in ended.stderr
    assert lines(tmp_path / given) == pairs(1)


def test_edits_go_into_a_file_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: is no file"):
        edit_pairs(
            to_edit(1),
            tmp_path / "pipe",
            EditWith(model="m", base_url="http://127.0.0.1:9/v1", template="plain"),
        )
    assert os.listdir(tmp_path) == ["pipe"]


def test_only_a_refused_request_is_left_of_an_earlier_call(tmp_path: Path) -> None:
    with serving() as server:
        how = EditWith(model="m", base_url=server.url, template="plain")
        edit_pairs(to_edit(3), tmp_path / "e.jsonl", how)
        server.statuses = {"*": 400}
        counts = edit_pairs(to_edit(4), tmp_path / "e.jsonl", how)
        assert (counts.accepted, dict(counts.refused)) == (3, {"request": 1})
        with pytest.raises(UserError, match="8 pairs in a row got no answer"):
            edit_pairs(to_edit(30), tmp_path / "e.jsonl", how)
    assert [line["id"] for line in lines(tmp_path / "e.rejects.jsonl")] == ["p3"]


def test_a_refused_answer_is_asked_again_with_what_was_wrong(tmp_path: Path) -> None:
    def reply(item: str, body: dict) -> str:
        return ["", f"the answer {item} is bad, as far as I can tell", by_rule(item, body)][
            len(body["messages"]) // 2
        ]

    with serving() as server:
        server.reply = reply
        counts = edit_pairs(
            to_edit(1), tmp_path / "e.jsonl", EditWith(model="m", base_url=server.url, template="plain")
        )
        last = server.bodies[-1]["messages"]
    assert [message["role"] for message in last] == ["user", "assistant", "user", "assistant", "user"]
    assert last[2]["content"] == AGAIN.format(why="it is empty")
    assert "unchanged" in last[4]["content"]
    assert (counts.accepted, dict(counts.answers_refused)) == (1, {"empty": 1, "unchanged": 1})
    assert lines(tmp_path / "e.jsonl")[0]["editing"] == {"template": "plain", "attempts": 3, "ratio": 0.0833}


def test_no_change_needed_is_an_edit_that_changes_nothing(tmp_path: Path) -> None:
    with serving() as server:
        server.reply = lambda item, body: "NO CHANGE NEEDED"
        counts = edit_pairs(
            to_edit(2), tmp_path / "e.jsonl", EditWith(model="m", base_url=server.url, template="plain")
        )
        again = edit_pairs(
            to_edit(2), tmp_path / "e.jsonl", EditWith(model="m", base_url=server.url, template="plain")
        )
    assert (counts.accepted, counts.no_change) == (again.accepted, again.no_change) == (2, 2)
    assert all(
        line["edited"] == line["rejected"] and line["editing"]["no_change"]
        for line in lines(tmp_path / "e.jsonl")
    )


def test_reasons_are_kept(tmp_path: Path) -> None:
    with serving() as server:
        server.reply = lambda item, body: f"The first is short.\n{BEGIN}\n{by_rule(item, body)}\n{END}"
        edit_pairs(to_edit(1), tmp_path / "e.jsonl", EditWith(model="m", base_url=server.url))
        asked = server.bodies[0]["messages"][0]["content"]
    assert "It is good." in asked
    assert "the answer p0 is bad" in asked
    assert lines(tmp_path / "e.jsonl")[0]["editing"]["reason"] == "The first is short."


@pytest.mark.parametrize(
    ("verdict", "accepted"),
    [
        (lambda first, second: "1" if "good" in first else "2", 1),  # prefers the edit
        (lambda first, second: "2" if "good" in first else "1", 0),  # prefers the original
        (lambda first, second: "1", 0),  # prefers what stands first
        (lambda first, second: "neither", 0),
    ],
)
def test_verify(tmp_path: Path, verdict, accepted: int) -> None:
    def reply(item: str, body: dict) -> str:
        text = body["messages"][0]["content"]
        shown = re.search(r"Response 1:\n(.*?)\n\nResponse 2:\n(.*?)\n\n", text, re.DOTALL)
        assert (body["model"] == "judge") == bool(shown)
        return verdict(*shown.groups()) if shown else by_rule(item, body)

    how = {"model": "m", "template": "plain", "verify": True, "verify_model": "judge", "attempts": 1}
    with serving() as server:
        server.reply = reply
        counts = edit_pairs(
            to_edit(1), tmp_path / "e.jsonl", EditWith.model_validate(how | {"base_url": server.url})
        )
        assert server.requests == 3
    assert (counts.accepted, counts.refused["verify"], counts.tokens_in) == (accepted, 1 - accepted, 300)
    if accepted:
        assert lines(tmp_path / "e.jsonl")[0]["editing"]["verify"] == {
            "model": "judge",
            "second": True,
            "first": True,
        }
    else:
        assert not all(lines(tmp_path / "e.rejects.jsonl")[0]["verify"].values())


@pytest.mark.parametrize(("status", "then"), [(500, True), (400, True), (500, False)])
def test_an_edit_is_not_paid_for_again_when_its_judge_fails(tmp_path: Path, status: int, then: bool) -> None:
    asked: list[str] = []

    def reply(item: str, body: dict) -> str:
        asked.append(body["model"])
        if body["model"] == "m":
            return by_rule(item, body)
        text = body["messages"][0]["content"]
        return "1" if "is good" in text[text.index("Response 1:") : text.index("Response 2:")] else "2"

    how = {
        "model": "m",
        "template": "plain",
        "verify": True,
        "verify_model": "judge",
        "attempts": 1,
        "retries": 0,
    }
    with serving() as server:
        server.reply, server.models = reply, {"judge": status}
        how["base_url"] = server.url
        for _ in range(2):
            with pytest.raises(
                UserError, match=r"2 of 2 pairs got no answer .the first, p[01]: the judge judge: "
            ):
                edit_pairs(to_edit(2), tmp_path / "e.jsonl", EditWith.model_validate(how))
        assert (asked, lines(tmp_path / "e.jsonl")) == (["m", "m"], [])
        server.models = {}
        counts = edit_pairs(to_edit(2), tmp_path / "e.jsonl", EditWith.model_validate(how | {"verify": then}))
    assert asked == ["m", "m", *["judge"] * 4 * then]
    assert (counts.accepted, counts.tokens_in) == (2, 400 * then)
    assert os.listdir(tmp_path) == ["e.jsonl"]


def test_conversations_keep_their_form(tmp_path: Path) -> None:
    prompt = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Question 0?"}]
    response = [
        {"role": "assistant", "content": "  the answer p0 is bad, as far as I can tell\n", "name": "x"}
    ]
    pair = ToEdit.model_validate({"id": "p0", "prompt": prompt, "rejected": response})
    with serving() as server:
        edit_pairs([pair], tmp_path / "e.jsonl", EditWith(model="m", base_url=server.url, template="plain"))
        asked = server.bodies[0]["messages"][0]["content"]
    assert "System: Be short.\n\nUser: Question 0?" in asked
    line = lines(tmp_path / "e.jsonl")[0]
    assert line["edited"] == [response[0] | {"content": "  the answer p0 is good, as far as I can tell\n"}]
    assert (line["prompt"], line["rejected"]) == (prompt, response)
    assert "chosen" not in line


def test_pairs_that_cannot_be_edited(tmp_path: Path) -> None:
    with serving() as server:
        how = EditWith(model="m", base_url=server.url, template="plain")
        with pytest.raises(UserError, match="the pair p1 has none"):
            edit_pairs([ToEdit(id="p1", prompt="Q", rejected="R")], tmp_path / "e.jsonl", EditWith(model="m"))
        with pytest.raises(UserError, match="the id p0 occurs 2 times"):
            edit_pairs([*to_edit(1), *to_edit(1)], tmp_path / "e.jsonl", how)
        (tmp_path / "t.txt").write_text("{prompt} {rejected}", encoding="utf-8")
        guided = how.model_copy(update={"template": str(tmp_path / "t.txt"), "guideline": "be kind"})
        with pytest.raises(UserError, match=r"field .guideline. is missing"):
            edit_pairs(to_edit(1), tmp_path / "e.jsonl", guided)
        odd = [{"role": "user", "content": "no answer"}]
        counts = edit_pairs(
            [ToEdit(id="a", prompt="Q", rejected=""), ToEdit(id="b", prompt="Q", rejected=odd)],
            tmp_path / "e.jsonl",
            how,
        )
        assert server.requests == 0
        assert dict(counts.refused) == {"input": 2}


def test_a_recipe_that_starts_from_pairs(tmp_path: Path, tiny_model: str) -> None:
    """The run's own stage: the same editor and gates, its edits labelled, what needs no change left out and
    counted."""

    def reply(item: str, body: dict) -> str:
        return "NO CHANGE NEEDED" if item == "p3" else by_rule(item, body)

    (tmp_path / "short.txt").write_text("Mend this: {rejected}\n{prompt}", encoding="utf-8")
    (tmp_path / "pairs.jsonl").write_text(
        "".join(json.dumps(pair) + "\n" for pair in pairs(80)), encoding="utf-8"
    )
    with serving() as server:
        server.reply = reply
        plain = {
            "model": {"name": tiny_model},
            "data": {"pairs": {"path": "pairs.jsonl"}},
            "edit": {
                "model": "rule",
                "base_url": server.url,
                "template": "short.txt",
                "attempts": 1,
                "price_in": 1.0,
            },
        }
        (tmp_path / "recipe.json").write_text(json.dumps(plain), encoding="utf-8")  # JSON is YAML
        Run(load_recipe(tmp_path / "recipe.json"), tmp_path / "run").go("label")
        assert server.requests == 80
        assert server.bodies[0]["messages"][0]["content"].startswith("Mend this: the answer")
    folder = tmp_path / "run"
    assert [line["id"] for line in lines(folder / "data/edits.rejects.jsonl")] == ["p77"]
    left_out = [
        line
        for name in ("train", "validation")
        if (path := folder / f"labels/{name}.rejects.jsonl").exists()
        for line in lines(path)
    ]
    assert [(line["record"]["id"], line["reason"]) for line in left_out] == [
        ("p3", "rejected and edited are equal")
    ]
    labels = lines(folder / "labels/train.jsonl") + lines(folder / "labels/validation.jsonl")
    assert sorted(line["id"] for line in labels) == sorted(
        f"p{number}" for number in range(80) if number not in (3, 77)
    )
    assert all(-1 in line["rejected_labels"] and 1 in line["edited_labels"] for line in labels)


def test_hostile_text_is_stored_unchanged_or_refused(tmp_path: Path) -> None:
    odd = "the answer p0 is bad \u202e\x00<script>alert(1)</script> {prompt} %s \\ud800 `x`"
    with serving() as server:
        server.reply = lambda item, body: odd.replace("bad", "good") if len(body["messages"]) == 1 else "x"
        how = EditWith(model="m", base_url=server.url, template="plain")
        edit_pairs([ToEdit(id="p0", prompt="Q", rejected=odd)], tmp_path / "e.jsonl", how)
        server.reply = lambda item, body: "the answer \ud800 is good"
        counts = edit_pairs(
            [ToEdit(id="p1", prompt="Q", rejected="the answer p1 is bad")], tmp_path / "f.jsonl", how
        )
    assert lines(tmp_path / "e.jsonl")[0]["edited"] == odd.replace("bad", "good")
    assert dict(counts.refused) == {"parsed": 1}
    assert lines(tmp_path / "f.rejects.jsonl")[0]["answer"] == "the answer \\ud800 is good"


def test_statistics_of_edits(redline: Redline, given: Path, tmp_path: Path) -> None:
    out, drawing = tmp_path / "e.jsonl", tmp_path / "e.svg"
    with serving() as server:
        done = redline(
            "edit",
            str(given),
            "--out",
            str(out),
            "--model",
            "rule",
            "--base-url",
            server.url,
            "--template",
            "plain",
        )
    assert done.returncode == 0, done.stderr
    shown = redline("edits", str(out), "--picture", str(drawing))
    assert shown.returncode == 0, shown.stderr
    assert "12 edits, 0 of them unchanged; edit ratio mean 0.083, median 0.083" in shown.stdout
    assert re.search(r"rule +12 +0 +0\.083 +0\.083 +132 +12 +0 +0", shown.stdout)
    root = ET.parse(drawing).getroot()
    assert root.tag.endswith("svg")
    assert "12 edits" in "".join(root.itertext())
    (tmp_path / "e.rejects.jsonl").write_text(
        '{"reason": "r", "file": "f"}\n{"id": "x", "gate": "ratio"}\n', encoding="utf-8"
    )
    assert (
        "refused: 1 ratio (more words" in redline("edits", str(out)).stdout
    )  # the first was left out by another command
    refused = redline("edits", str(out), "--picture", "e.png")
    assert refused.returncode == 2
    assert "only .svg" in refused.stderr
