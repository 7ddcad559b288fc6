"""An LLM judge against a real HTTP server in the test."""

import base64
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from redline.chat import Answer
from redline.data.files import write_jsonl
from redline.data.records import Response
from redline.errors import UserError
from redline.judge.cache import VerdictCache
from redline.judge.llm import LlmJudge, as_transcript, read_json_verdict, read_template, read_token
from redline.judge.verdicts import judge_pairs
from redline.recipe import load_recipe
from redline.run.comparison import watching_judge
from redline.run.run import Run

Reply = tuple[int, Any]


class Server:
    """Answers chat completions as ``reply(body)`` says: (status, body), or a string as the message."""

    def __init__(self) -> None:
        self.bodies: list[dict] = []
        self.logins: list[str] = []
        self.reply: Callable[[dict], Reply | str] = lambda body: '{"verdict": "A"}'
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                server.bodies.append(body)
                server.logins.append(self.headers["authorization"])
                answer = server.reply(body)
                status, content = answer if isinstance(answer, tuple) else (200, message(answer))
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.send_header("retry-after", "0")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


def message(text: str, logprobs: dict[str, float] | None = None) -> dict:
    content = [
        {
            "token": text,
            "logprob": 0.0,
            "top_logprobs": [{"token": token, "logprob": value} for token, value in (logprobs or {}).items()],
        }
    ]
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": text},
                "logprobs": {"content": content} if logprobs else None,
            }
        ],
    }


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


def shown(body: dict) -> tuple[str, str]:
    """The two responses as the built-in template shows them."""
    text = body["messages"][-1]["content"]
    return tuple(text.split(f"<response_{side}>\n")[1].split(f"\n</response_{side}>")[0] for side in "AB")


def test_json_verdicts_in_both_orders(server):
    def prefers_good(body: dict) -> str:
        a, _ = shown(body)
        return "Thinking aloud {as models do}. " + json.dumps(
            {"reason": "x", "verdict": "A" if a == "good" else "B"}
        )

    server.reply = prefers_good
    judge = LlmJudge("judge-1", server.url)
    with VerdictCache(None) as cache:
        verdicts = judge_pairs(judge, [("p", "good", "bad"), ("p", "bad", "good")], cache)
    assert [verdict.preference for verdict in verdicts] == [1.0, 0.0]
    assert len(server.bodies) == 2  # the two pairs are each other's second order
    assert {body["model"] for body in server.bodies} == {"judge-1"}
    assert {body["temperature"] for body in server.bodies} == {0}
    assert server.bodies[0]["messages"][0]["role"] == "system"


def test_position_bias_becomes_ties(server):
    with VerdictCache(None) as cache:
        verdicts = judge_pairs(LlmJudge("m", server.url), [("p", "x", "y"), ("q", "x", "y")], cache)
    assert [verdict.preference for verdict in verdicts] == [0.5, 0.5]
    assert all(verdict.disagrees for verdict in verdicts)


def test_token_verdicts_from_log_probabilities(server):
    server.reply = lambda body: (
        200,
        message("A", {"A": math.log(0.6), " A": math.log(0.1), "B": math.log(0.1), "The": -1.0}),
    )
    assert LlmJudge("m", server.url, verdict="token").prefer(["p"], ["x"], ["y"]) == [
        pytest.approx(0.7 / 0.8)
    ]
    body = server.bodies[0]
    assert (body["logprobs"], body["top_logprobs"], body["max_tokens"]) == (True, 20, 1)


def test_token_verdicts_without_log_probabilities(server):
    answers = iter(["B", " A.", "I cannot say"])
    server.reply = lambda body: next(answers)
    judge = LlmJudge("m", server.url, verdict="token", concurrency=1)
    assert [judge.prefer(["p"], ["x"], ["y"])[0] for _ in range(3)] == [0.0, 1.0, None]
    assert judge.failures == {"no verdict in the answer": 1}


def test_failures_are_counted_and_the_rest_goes_on(server):
    def reply(body: dict) -> Reply | str:
        a, _ = shown(body)
        if a == "refused":
            return 400, {"error": {"message": "too long for me"}}
        return "no idea" if a == "mumble" else '{"verdict": "tie"}'

    server.reply = reply
    judge = LlmJudge("m", server.url)
    assert judge.prefer(["p"] * 3, ["refused", "mumble", "fine"], ["y"] * 3) == [None, None, 0.5]
    assert sum(judge.failures.values()) == 2
    assert any("too long for me" in reason for reason in judge.failures)


def test_an_answer_that_is_cut_short_has_no_verdict(server):
    cut = message('I am to answer as {"reason": "...", "verdict": "A"}. Now, the first response')
    cut["choices"][0]["finish_reason"] = "length"
    server.reply = lambda body: (200, cut)
    judge = LlmJudge("m", server.url)
    assert judge.prefer(["p"], ["x"], ["y"]) == [None]
    assert judge.failures == {"an answer cut at the endpoint's length limit": 1}


def test_a_server_error_is_asked_again(server):
    answers = iter(
        [
            (500, {"error": {"message": "hiccup"}}),
            (429, {"error": {"message": "slow down"}}),
            '{"verdict": "B"}',
        ]
    )
    server.reply = lambda body: next(answers)
    assert LlmJudge("m", server.url).prefer(["p"], ["x"], ["y"]) == [0.0]
    assert len(server.bodies) == 3


def test_requests_run_side_by_side(server):
    together = threading.Barrier(4, timeout=20)

    def reply(body: dict) -> str:
        together.wait()  # answers only when four are asking at once
        return '{"verdict": "A"}'

    server.reply = reply
    with VerdictCache(None) as cache:
        judge_pairs(
            LlmJudge("m", server.url, concurrency=4), [(f"p{number}", "x", "y") for number in range(4)], cache
        )
    assert len(server.bodies) == 8


def test_a_killed_comparison_goes_on_where_it_stood(server, tmp_path):
    def reply(body: dict) -> str:
        time.sleep(0.03)
        a, b = shown(body)
        return json.dumps({"verdict": "A" if a < b else "B"})

    server.reply = reply
    for name, text in (("a", "first"), ("b", "second")):
        rows = [
            {"id": str(number), "prompt": f"p{number}", "response": f"{text} {number}"}
            for number in range(60)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        sys.executable,
        "-m",
        "redline.cli",
        "compare",
        "a.jsonl",
        "b.jsonl",
        "--judge",
        "m",
        "--base-url",
        server.url,
        "--concurrency",
        "2",
    ]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as killed:
        while len(server.bodies) < 50:
            time.sleep(0.01)
        killed.kill()
    assert not (tmp_path / "winrate.json").exists()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "winrate.json").read_text())["win_rate"] == 1.0
    assert 120 <= len(server.bodies) <= 120 + 4  # at most what was under way when it was killed


@pytest.mark.parametrize(("status", "said"), [(401, "key was refused"), (404, "not found")])
def test_no_access_ends_the_comparison_in_one_line(server, status, said):
    server.reply = lambda body: (status, {"error": {"message": "no"}})
    with VerdictCache(None) as cache, pytest.raises(UserError, match=said):
        judge_pairs(LlmJudge("m", server.url), [(f"p{number}", "x", "y") for number in range(20)], cache)


@pytest.mark.parametrize("body", [{"error": {"message": "down"}}, {"choices": []}, "truncated"])
def test_an_endpoint_that_stays_down_ends_the_comparison(server, tmp_path, body):
    pairs = [(f"p{number}", "x", "y") for number in range(30)]
    with VerdictCache(tmp_path / "verdicts.sqlite") as cache:
        judge_pairs(LlmJudge("m", server.url), pairs[:3], cache)
        server.reply = lambda _: (500 if "error" in body else 200, body)
        with pytest.raises(UserError, match="8 requests in a row got no answer"):
            judge_pairs(LlmJudge("m", server.url, retries=0), pairs, cache)
        assert len(server.bodies) < 6 + 2 * 8 + 8
        server.reply = lambda _: '{"verdict": "A"}'
        assert all(verdict.disagrees for verdict in judge_pairs(LlmJudge("m", server.url), pairs, cache))


def test_no_key_for_a_server_that_needs_one(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match=r"no key\. Set OPENAI_API_KEY"):
        LlmJudge("m", "https://127.0.0.1:9/v1")


def test_no_server_at_all():
    with pytest.raises(UserError, match=r"^http://127\.0\.0\.1:9/v1: cannot be reached"):
        LlmJudge("m", "http://bob:s3cret@127.0.0.1:9/v1", retries=0).prefer(["p"], ["x"], ["y"])


def test_a_login_in_the_url_is_sent_but_not_shown(server):
    judge = LlmJudge("m", server.url.replace("//", "//bob:s3cret@"))
    assert judge.prefer(["p"], ["x"], ["y"]) == [1.0]
    assert server.logins == ["Basic " + base64.b64encode(b"bob:s3cret").decode()]
    assert judge.settings["base_url"] == server.url


def test_the_users_own_template(server, tmp_path):
    own = tmp_path / "mine.txt"
    own.write_text('Which is kinder?\nQ: {prompt}\nA: {a}\nB: {b}\nReply {"verdict": ...}')
    default, mine = LlmJudge("m", server.url), LlmJudge("m", server.url, str(own))
    mine.prefer(["{a} or {b}?"], ["x{b}"], ["y"])
    assert [turn["role"] for turn in server.bodies[0]["messages"]] == ["user"]
    assert server.bodies[0]["messages"][0]["content"] == (
        'Which is kinder?\nQ: {a} or {b}?\nA: x{b}\nB: y\nReply {"verdict": ...}'
    )
    assert default.settings != mine.settings  # another template, other verdicts


def test_a_recipe_says_how_an_llm_is_asked(server, tmp_path, monkeypatch):
    """Of the comparison and, where it is the same judge, of watching the training: template, one letter, key
    in no file."""
    (tmp_path / "mine.txt").write_text("Kinder? {prompt} A: {a} B: {b}")
    (tmp_path / "recipe.yaml").write_text(
        "data: {edits: {path: e.jsonl}}\nwatch: {judge: judge-1}\ncompare: {judge: judge-1, template: "
        "mine.txt, verdict: token, "
        f"base_url: '{server.url.replace('//', '//me:secret@')}'}}\n"
    )
    server.reply = lambda body: "A" if "A: warm" in body["messages"][0]["content"] else "B"
    run = Run(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "run")
    prompts = [{"id": str(number), "prompt": f"q{number}"} for number in range(3)]
    write_jsonl(run.folder / "data/eval_prompts.jsonl", prompts)
    a, b = ([Response(**prompt, response=text) for prompt in prompts] for text in ("warm", "cold"))
    monkeypatch.setattr("redline.policy.evaluate.side_by_side", lambda *_: (a, b, {}))
    run.stages["compare"](run.job)
    assert {body["messages"][0]["content"] for body in server.bodies} == {
        f"Kinder? q{number} A: {x} B: {y}"
        for number in range(3)
        for x, y in (("warm", "cold"), ("cold", "warm"))
    }
    assert {body["max_tokens"] for body in server.bodies} == {1}
    result = json.loads((run.folder / "winrate.json").read_text())
    assert (result["win_rate"], result["judge_settings"]["verdict"]) == (1.0, "token")
    assert "secret" not in (run.folder / "winrate.json").read_text()
    gold, asked = watching_judge(run.job), len(server.bodies)
    assert gold is not None
    assert gold.prefer(a[:1], b[:1]) == [1.0]
    assert {body["messages"][0]["content"] for body in server.bodies[asked:]} == {
        "Kinder? q0 A: warm B: cold",
        "Kinder? q0 A: cold B: warm",
    }


def test_templates_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_template(str(tmp_path / "none.txt"))
    (tmp_path / "half.txt").write_text("{prompt} {a}")
    with pytest.raises(UserError, match=r"lacks \{b\}"):
        read_template(str(tmp_path / "half.txt"))


@pytest.mark.parametrize(
    ("answer", "preference"),
    [
        ('{"verdict": "A"}', 1.0),
        ('{"verdict": "TIE"}', 0.5),
        ('{"a": {"verdict": "A"}}', 1.0),
        ('[{"verdict": "B"}]', 0.0),
        ('```json\n{"reason": "a {brace}", "verdict": "b"}\n```', 0.0),
        ('First {"verdict": "A"}, no: {"verdict": "B"}', 0.0),
        ('{"a": ' * 5000, None),
        ('{"verdict": "A", "note": {"verdict": "B"}}', 1.0),
        ('{"verdict": null, "note": {"verdict": "B"}}', None),
        ('{"verdict": "both"}', None),
        ('{"verdict": "A"', None),
        ('{"verdict": null}', None),
        ("A", None),
        ("", None),
    ],
)
def test_reading_json_verdicts(answer, preference):
    assert read_json_verdict(answer) == preference


def test_reading_tokens():
    assert read_token(Answer("x", first_token={"A": 0.0, "B": -math.inf})) == 1.0
    assert read_token(Answer("x", first_token={"The": 0.0})) is None
    assert read_token(Answer("**B**")) == 0.0
    assert read_token(Answer("Answer")) is None


def test_conversations_are_shown_with_their_speakers():
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    assert as_transcript(talk) == "[user]\nhi\n\n[assistant]\nhello"
    assert as_transcript(talk[1:]) == as_transcript("hello") == "hello"
