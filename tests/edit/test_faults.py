"""Endpoints that go wrong, and a process that is killed: every pair comes out once, none is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from email.utils import formatdate
from pathlib import Path

import faulty_endpoint
import pytest
from faulty_endpoint import FAULTS, FaultyEndpoint, pairs, serving

from redline import chat
from redline.data.records import ToEdit
from redline.edit.llm import edit_pairs
from redline.edit.settings import EditWith
from redline.errors import UserError
from redline.urls import without_login

COUNT = 500
REFUSED = {f"p{number}" for number in range(COUNT) if str(number).endswith("77")}


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def check_output(out: Path) -> None:
    edits, rejects = lines(out), lines(out.with_name("edits.rejects.jsonl"))
    assert Counter(line["id"] for line in [*edits, *rejects]) == Counter(
        f"p{number}" for number in range(COUNT)
    )
    assert {line["id"] for line in rejects} == REFUSED
    assert [line["id"] for line in edits] == [
        f"p{number}" for number in range(COUNT) if f"p{number}" not in REFUSED
    ]
    assert all(line["edited"] == line["rejected"].replace("bad", "good") for line in edits)
    assert all(line["topic"] == int(line["id"][1:]) % 7 and line["editor"] == "rule" for line in edits)
    assert {line["gate"] for line in rejects} == {"remark"}
    assert all(
        line["answer"] == "I'm sorry, but I cannot do that." and line["attempts"] == 2 for line in rejects
    )


def editing(server: FaultyEndpoint, **options: object) -> EditWith:
    how = {
        "model": "rule",
        "base_url": server.url,
        "template": "plain",
        "concurrency": 24,
        "timeout": 1,
        "attempts": 2,
        "retries": 12,
        **options,
    }
    return EditWith.model_validate(how)


def test_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "FIRST_WAIT", 0.1)
    with serving(share=0.3) as server:
        counts = edit_pairs(
            [ToEdit.model_validate(pair) for pair in pairs(COUNT)], tmp_path / "edits.jsonl", editing(server)
        )
    check_output(tmp_path / "edits.jsonl")
    assert (counts.accepted, dict(counts.refused)) == (COUNT - len(REFUSED), {"remark": len(REFUSED)})
    assert counts.answers == COUNT + len(REFUSED)
    assert counts.tokens_in == 100 * counts.answers
    assert set(FAULTS) <= set(server.faults), "the endpoint did not go wrong in every way"
    assert counts.retries == server.requests - server.faults["none"] > 150
    assert not server.too_early, "Retry-After was not waited for"


def test_killed_five_times(tmp_path: Path) -> None:
    given, out = tmp_path / "pairs.jsonl", tmp_path / "edits.jsonl"
    given.write_text("".join(json.dumps(pair) + "\n" for pair in pairs(COUNT)), encoding="utf-8")
    with serving(share=0.3, seed=1) as server:
        command = [
            sys.executable,
            "-m",
            "redline.cli",
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
            "--timeout",
            "0.7",
            "--attempts",
            "2",
            "--retries",
            "12",
            "--concurrency",
            "32",
        ]
        seen = []
        for kill in range(5):
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
                enough, deadline = 80 * (kill + 1), time.monotonic() + 30
                while (
                    len(out.read_bytes().splitlines() if out.exists() else []) < enough
                    and time.monotonic() < deadline
                ):
                    time.sleep(0.01)
                assert process.poll() is None, process.communicate()[1]
                process.send_signal(signal.SIGKILL)
            seen.append(len(out.read_bytes().splitlines()))
            if kill == 2:  # what a kill in the middle of a write leaves
                with out.open("ab") as torn:
                    torn.write(b'{"id": "p499", "prompt": "Quest')
        assert seen == sorted(seen)
        assert seen[-1] < COUNT - len(REFUSED)
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert f"{COUNT} pairs: {COUNT - len(REFUSED)} accepted" in ended.stderr
    check_output(out)


def test_ctrl_c(tmp_path: Path) -> None:
    given, out = tmp_path / "pairs.jsonl", tmp_path / "edits.jsonl"
    given.write_text("".join(json.dumps(pair) + "\n" for pair in pairs(60)), encoding="utf-8")
    with serving() as server:
        command = [
            sys.executable,
            "-m",
            "redline.cli",
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
            "--rate",
            "1200",
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            deadline = time.monotonic() + 30
            while (
                len(out.read_bytes().splitlines() if out.exists() else []) < 10
                and time.monotonic() < deadline
            ):
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            told = process.communicate(timeout=20)[1]
        assert process.returncode == 130
        assert told.splitlines()[-1] == "redline: stopped. The same command continues where it left off."
        assert "Traceback" not in told
        assert 10 <= len(lines(out)) < 60
        assert subprocess.run(command[:-2], capture_output=True, timeout=60).returncode == 0
    assert [line["id"] for line in lines(out)] == [f"p{number}" for number in range(60)]


def test_goes_on_where_it_stopped_and_asks_nothing_twice(tmp_path: Path) -> None:
    todo = [ToEdit.model_validate(pair) for pair in pairs(30)]
    with serving() as server:
        edit_pairs(todo[:10], tmp_path / "edits.jsonl", editing(server))
        counts = edit_pairs(todo, tmp_path / "edits.jsonl", editing(server))
        assert (server.requests, counts.before, counts.accepted, counts.answers) == (30, 10, 30, 20)
        counts = edit_pairs(todo, tmp_path / "edits.jsonl", editing(server))
    assert (server.requests, counts.before, counts.accepted, counts.answers) == (30, 30, 30, 0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7),
        ("0.4", 0.4),
        ("-3", 0),
        ("300", 300),
        ("soon", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Mon, 01 Jan 99999 00:00:00 GMT", None),
        ("Mon, 41 Jan 2024 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert chat._retry_after({} if value is None else {"retry-after": value}) == seconds
    in_90_seconds = formatdate(time.time() + 90, usegmt=True)
    assert chat._retry_after({"retry-after": in_90_seconds}) == pytest.approx(90, abs=3)


def test_a_wait_of_hours_ends_the_run_and_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    todo = [ToEdit.model_validate(pair) for pair in pairs(8)]
    with serving() as server:
        edit_pairs(todo[:5], tmp_path / "edits.jsonl", editing(server))
        monkeypatch.setattr(faulty_endpoint, "RETRY_AFTER", 7200)
        server.share, server._random.choice = 1.0, lambda faults: "429"  # type: ignore[method-assign]
        with pytest.raises(UserError, match=r"asks to be left alone for 7,200 s \(status 429\)"):
            edit_pairs(todo, tmp_path / "edits.jsonl", editing(server))
    assert [line["id"] for line in lines(tmp_path / "edits.jsonl")] == [f"p{number}" for number in range(5)]


def test_an_error_lets_the_answers_under_way_come_in(tmp_path: Path) -> None:
    def slow(item: str, body: dict) -> str:
        time.sleep(0.5)
        return faulty_endpoint.by_rule(item, body)

    todo = [ToEdit.model_validate(pair) for pair in pairs(12)]
    with serving() as server:
        server.reply, server.statuses, server.headers = slow, {"p0": 429}, {"Retry-After": "7200"}
        with pytest.raises(UserError, match="asks to be left alone"):
            edit_pairs(todo, tmp_path / "edits.jsonl", editing(server, concurrency=4))
        assert server.requests == 3
    assert {line["id"] for line in lines(tmp_path / "edits.jsonl")} == {"p1", "p2", "p3"}


@pytest.mark.parametrize("usage", [[1], "many", {"prompt_tokens": "7", "completion_tokens": None}, None])
def test_a_usage_of_another_shape_is_no_count(tmp_path: Path, usage: object) -> None:
    with serving() as server:
        server.usage = usage
        counts = edit_pairs([ToEdit.model_validate(pairs(1)[0])], tmp_path / "edits.jsonl", editing(server))
    assert (counts.accepted, counts.tokens_out) == (1, 0)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://host:8000/v1", None),
        ("https://bob:s3cret@host/v1", "https://host/v1"),
        ("http://bob@host/a@b", "http://host/a@b"),
        ("http://bob:p@ss@host", "http://host"),
        ("bob:s3cret@host/v1", "host/v1"),
        ("", None),
    ],
)
def test_a_url_without_its_login(url: str, shown: str | None) -> None:
    assert without_login(url) == (url if shown is None else shown)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("bob:s3cret@host/v1", "--base-url host/v1: not a URL"),
        ("https://bob:s3cret@host/v1", "https://host/v1: no key"),
    ],
)
def test_messages_show_no_login(url: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        chat.Endpoint("m", url)


def test_rate_limit(tmp_path: Path) -> None:
    start = time.monotonic()
    with serving() as server:
        edit_pairs(
            [ToEdit.model_validate(pair) for pair in pairs(6)],
            tmp_path / "edits.jsonl",
            editing(server, rate=300),
        )
    assert time.monotonic() - start >= 5 * 60 / 300


def test_endpoint_that_stays_down_stops_the_run_and_leaves_what_is_done(tmp_path: Path) -> None:
    todo = [ToEdit.model_validate(pair) for pair in pairs(40)]
    with serving() as server:
        edit_pairs(todo[:5], tmp_path / "edits.jsonl", editing(server))
        server.share, server._random.choice = 1.0, lambda faults: "500"  # type: ignore[method-assign]
        with pytest.raises(
            UserError, match=r"24 pairs in a row got no answer .the last: status 500, 2 times"
        ):
            edit_pairs(todo, tmp_path / "edits.jsonl", editing(server, retries=1))
    assert [line["id"] for line in lines(tmp_path / "edits.jsonl")] == [f"p{number}" for number in range(5)]


def test_one_pair_without_an_answer_is_not_finished(tmp_path: Path) -> None:
    todo = [ToEdit.model_validate(pair) for pair in pairs(8)]
    with serving() as server:
        sound = server.draw
        server.draw = lambda item, body: "500" if item == "p3" else sound(item, body)  # type: ignore[method-assign]
        with pytest.raises(UserError, match=r"1 of 8 pairs got no answer .the first, p3: status 500"):
            edit_pairs(todo, tmp_path / "edits.jsonl", editing(server, retries=1))
        assert len(lines(tmp_path / "edits.jsonl")) == 7
        server.draw = sound  # type: ignore[method-assign]
        edit_pairs(todo, tmp_path / "edits.jsonl", editing(server))
    assert [line["id"] for line in lines(tmp_path / "edits.jsonl")] == [f"p{number}" for number in range(8)]


def test_second_process_is_refused(tmp_path: Path) -> None:
    from redline.edit.journal import Journal

    with (
        serving() as server,
        Journal(tmp_path / "edits.jsonl"),
        pytest.raises(UserError, match="another process is writing"),
    ):
        edit_pairs([ToEdit.model_validate(pairs(1)[0])], tmp_path / "edits.jsonl", editing(server))


def test_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from redline.edit.journal import Journal

    with Journal(tmp_path / "out.jsonl") as journal:
        journal.append({"id": "a"})

        def full(file: int) -> None:
            raise OSError(28, os.strerror(28))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left"):
            journal.append({"id": "b"})
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == '{"id": "a"}\n'
