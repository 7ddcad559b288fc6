"""``redline sample``: what it writes is what `edit`, `annotate` and `compare` read; it goes on where it
stopped; the worst of n by a reward; endpoints."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from typer.testing import CliRunner
from vllm_standin import StandIn, serving

from redline.cli import app
from redline.data.check import Rejects
from redline.data.read import read
from redline.data.records import Response, ToEdit
from redline.data.settings import Source
from redline.engine.models import tokenizer_of
from redline.engine.saving import save
from redline.engine.settings import Adapt, Model
from redline.errors import UserError
from redline.policy.actor import ActorCritic
from redline.reward.model import new_reward_model, save_reward_model
from redline.reward.settings import Reward
from redline.sampling.command import sample_command, scorer
from redline.sampling.settings import Sampling, VllmServer

SHORT = Sampling(max_new_tokens=6)


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    lines = [{"id": f"p{number}", "prompt": f"the film {number} was", "topic": "film"} for number in range(5)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Source(path=str(path))


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_are_read_by_the_next_commands(tiny_model, prompts, tmp_path):
    out = tmp_path / "answers.jsonl"
    assert sample_command(tiny_model, prompts, out, SHORT, n=2) == 10
    assert [line["id"] for line in lines_of(out)][:3] == ["p0.1", "p0.2", "p1.1"]
    assert lines_of(out)[0]["topic"] == "film"
    for kind, field in ((ToEdit, "rejected"), (Response, "response")):
        rejects = Rejects()
        records = list(read(Source(path=str(out)), kind, rejects))
        assert len(records) == 10
        assert not rejects.total
        assert [getattr(record, field) for record in records] == [line["response"] for line in lines_of(out)]


def test_a_stopped_command_goes_on_and_ends_the_same(tiny_model, prompts, tmp_path):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    sample_command(tiny_model, prompts, whole, SHORT, n=3, seed=7)
    lines = whole.read_text().splitlines(keepends=True)
    cut.write_text("".join(lines[:4]) + lines[4][:20])  # killed in the middle of a line
    sample_command(tiny_model, prompts, cut, SHORT, n=3, seed=7)
    assert cut.read_text() == whole.read_text()
    with pytest.raises(UserError, match="holds other answers"):
        sample_command(tiny_model, prompts, cut, SHORT, n=2)


def test_the_worst_of_n_by_a_reward(tiny_model, prompts, tmp_path):
    reward, wrapped = new_reward_model(Reward(), Model(name=tiny_model))
    save_reward_model(reward, wrapped, tmp_path / "reward", tiny_model)
    every, worst = tmp_path / "every.jsonl", tmp_path / "worst.jsonl"
    sample_command(tiny_model, prompts, every, SHORT, n=4)
    assert sample_command(tiny_model, prompts, worst, SHORT, n=4, worst_by=str(tmp_path / "reward")) == 5
    score = scorer(str(tmp_path / "reward"))
    drawn = list(read(Source(path=str(every)), Response, Rejects()))
    for place, line in enumerate(lines_of(worst)):
        records = drawn[4 * place : 4 * place + 4]
        rewards = score(records[0], [record.response for record in records])
        assert line["id"] == f"p{place}"
        assert line["rejected"] == records[rewards.index(min(rewards))].response
        assert line["reward"] == pytest.approx(min(rewards))
    with pytest.raises(UserError, match="Give --n 2"):
        sample_command(tiny_model, prompts, tmp_path / "x.jsonl", SHORT, worst_by=str(tmp_path / "reward"))


class Endpoint(ThreadingHTTPServer):
    """Answers every prompt with its own text, the one it is told to refuse with status 400."""

    refused = ""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(body)
        text = body["messages"][-1]["content"]
        refused = text == self.server.refused
        message = {"role": "assistant", "content": f"answer to {text}"}
        answer = {"choices": [{"message": message, "finish_reason": "stop", "index": 0}], "object": "x"}
        sent = json.dumps({"error": {"message": "no"}} if refused else answer).encode()
        self.send_response(400 if refused else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint():
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_an_endpoint_is_asked_only_for_what_is_missing(prompts, tmp_path, endpoint):
    url = f"http://127.0.0.1:{endpoint.server_address[1]}/v1"
    out = tmp_path / "answers.jsonl"
    endpoint.refused = "the film 2 was"
    arguments = ["sample", "some-model", "--prompts", prompts.path, "--out", str(out), "--base-url", url]
    ran = CliRunner().invoke(app, [*arguments, "--temperature", "0.5", "--max-new-tokens", "9"])
    assert isinstance(ran.exception, UserError)
    assert "prompts without an answer: 1 (the first, p2" in str(ran.exception)
    assert {line["id"] for line in lines_of(out)} == {"p0", "p1", "p3", "p4"}
    assert {(body["temperature"], body["max_tokens"]) for body in endpoint.asked} == {(0.5, 9)}
    endpoint.refused = ""
    endpoint.asked.clear()
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, ran.exception
    assert [body["messages"][-1]["content"] for body in endpoint.asked] == ["the film 2 was"]
    assert [line["id"] for line in lines_of(out)] == ["p0", "p1", "p2", "p3", "p4"]
    assert lines_of(out)[2]["rejected"] == "answer to the film 2 was"


def test_a_vllm_server_draws_the_answers_of_a_policy(tiny_model, prompts, tmp_path, redline):
    """With the adapter of the policy's folder, by the command's own option."""
    actor = ActorCritic(Model(name=tiny_model, dtype="float32"), Adapt(lora_rank=4))
    for name, parameter in actor.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    policy = tmp_path / "policy"
    save(actor.lm, actor.peft, tokenizer_of(Model(name=tiny_model)), policy, tiny_model)
    stand_in = StandIn(tiny_model)
    with serving(stand_in) as url:
        section = {"kind": "vllm", "url": url, "adapter_dir": str(tmp_path / "adapters")}
        out = tmp_path / "answers.jsonl"
        arguments = ["--prompts", prompts.path, "--out", out, "--n", "2", "--max-new-tokens", "6"]
        status, _, err = redline("sample", policy, *arguments, "--sampler", json.dumps(section))
    assert status == 0, err
    assert len(lines_of(out)) == 10
    asked = [body for body in stand_in.completions if body["max_tokens"] == 6]
    assert {body["model"] for body in asked} == set(stand_in.loads)
    assert len(asked) == 10


def test_a_sampler_that_cannot_be_is_one_line(tiny_model, prompts, tmp_path, redline):
    arguments = ["sample", tiny_model, "--prompts", prompts.path, "--out", tmp_path / "answers.jsonl"]
    status, _, err = redline(*arguments, "--sampler", "{kind: vllm, url: http://127.0.0.1:1}")
    assert status != 0
    assert "--sampler" in err
    assert "adapter_dir" in err
    server = VllmServer(kind="vllm", url="http://127.0.0.1:1", adapter_dir=str(tmp_path))
    with pytest.raises(UserError, match="--sampler and --base-url both say who draws"):
        sample_command(
            tiny_model, prompts, tmp_path / "a.jsonl", SHORT, base_url="http://127.0.0.1:1/v1", sampler=server
        )
