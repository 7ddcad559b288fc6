"""The reward server, driven over HTTP, under load."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
import uvicorn

from redline import TokenReward
from redline.integrations.server import Limits, reward_app

TOKEN = "of the test"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


class Watched:
    """A reward model that counts its calls; ``gate`` holds them back."""

    def __init__(self, reward):
        self.reward, self.model = reward, reward.model
        self.batches: list[int] = []
        self.calls = 0
        self.gate = threading.Event()
        self.gate.set()

    def score(self, prompts, responses):
        self.calls += 1
        self.gate.wait(30)
        self.batches.append(len(responses))
        return self.reward.score(prompts, responses)


def wait_until(condition):
    """Until it holds; fails after half a minute."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def serving(reward, **limits):
    config = uvicorn.Config(reward_app(reward, TOKEN, Limits(**limits)), port=0, log_level="error")
    listening = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=60) as client:
        yield client
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def reward(reward_folder) -> TokenReward:
    return TokenReward.from_pretrained(reward_folder)


def test_under_load_every_request_gets_the_rewards_of_its_own_texts(reward):
    """Sixty clients at once, texts of their own: none is lost, none is mixed up, and they are batched."""
    texts = [(f"the film {number}", f" was good {'and not bad ' * (number % 7)}") for number in range(60)]
    expected = [reward.score([prompt], [response])[0] for prompt, response in texts]
    watched = Watched(reward)
    watched.gate.clear()
    with serving(watched, batch=16) as client:

        def ask(pair):
            body = {"prompts": [pair[0]], "responses": [pair[1]]}
            return client.post("/score", json=body, headers=HEADERS)

        with ThreadPoolExecutor(60) as clients:
            asked = [clients.submit(ask, pair) for pair in texts]
            wait_until(lambda: watched.calls == 1)
            # at most 16 are with the model: all others wait, so how they are batched is known
            wait_until(lambda: client.get("/health").json()["waiting"] >= 44)
            watched.gate.set()
            answers = [answer.result() for answer in asked]
    assert [answer.status_code for answer in answers] == [200] * 60
    for answer, wanted in zip(answers, expected, strict=True):
        (score,) = answer.json()["scores"]
        assert (score["text"], score["tokens"]) == (wanted.text, wanted.tokens)
        assert score["rewards"] == pytest.approx(wanted.rewards, abs=1e-4)
        assert score["total"] == pytest.approx(wanted.total, abs=1e-3)
    assert sum(watched.batches) == 60
    assert max(watched.batches) == 16
    assert len(watched.batches) <= 10


def test_what_does_not_fit_into_the_queue_is_refused_at_once_and_taken_later(reward):
    watched = Watched(reward)
    watched.gate.clear()
    body = {"prompts": ["p"] * 4, "responses": [" r"] * 4}
    with serving(watched, batch=4, waiting=4) as client, ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(client.post, "/score", json=body, headers=HEADERS)]
        wait_until(lambda: watched.calls == 1)  # the model has these four
        asked.append(clients.submit(client.post, "/score", json=body, headers=HEADERS))
        wait_until(lambda: client.get("/health").json()["waiting"] == 4)  # the queue has these
        refused = client.post("/score", json=body, headers=HEADERS)
        assert refused.status_code == 503
        assert refused.headers["Retry-After"]
        watched.gate.set()
        assert [answer.result().status_code for answer in asked] == [200, 200]
        assert client.post("/score", json=body, headers=HEADERS).status_code == 200


def test_openrlhf_and_slime_are_answered_in_their_own_forms(reward):
    wanted = reward.score(["the film", "I"], [" was good", " liked it"])
    with serving(reward) as client:
        queries = ["the film was good", "I liked it"]
        body = {"query": queries, "prompts": ["the film", "I"], "labels": [None, None]}
        answer = client.post(f"/openrlhf?token={TOKEN}", json=body).json()
        assert answer["rewards"] == pytest.approx([result.total for result in wanted], abs=1e-4)
        assert answer["token_rewards"][1] == pytest.approx(wanted[1].rewards, abs=1e-4)
        sample = {"prompt": "the film", "response": " was good", "label": None}
        assert client.post(f"/slime?token={TOKEN}", json=sample).json() == pytest.approx(
            wanted[0].total, abs=1e-4
        )
        talk = {"prompts": [[{"role": "user", "content": "the film ?"}]], "responses": ["good"]}
        assert client.post("/score", json=talk, headers=HEADERS).json()["scores"][0]["text"] == "good"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ('{"prompts": ["p"], "responses": ["r"]}', {}, 401),
        ('{"prompts": ["p"], "responses": ["r"]}', {"Authorization": "Bearer wrong"}, 401),
        ("{", HEADERS, 400),
        ('{"prompts": ["p"]}', HEADERS, 422),
        ('{"prompts": ["p", "q"], "responses": ["r"]}', HEADERS, 422),
        ('{"prompts": ["p"], "responses": ["' + "r" * 200 + '"]}', HEADERS, 413),
        ('{"prompts": ["p", "p", "p"], "responses": ["r", "r", "r"]}', HEADERS, 413),
        ('{"prompts": ["p"], "responses": ["' + "r" * 2000 + '"]}', HEADERS, 413),
        ('{"prompts": [[{"role": "user"}]], "responses": ["r"]}', HEADERS, 422),
    ],
)
def test_what_is_refused_says_why_and_the_server_goes_on(reward, body, headers, status):
    with serving(reward, characters=100, texts=2, bytes=1000) as client:
        answer = client.post("/score", content=body, headers=headers)
        assert answer.status_code == status
        assert answer.json()["error"]
        good = {"prompts": ["p"], "responses": [" r"]}
        assert client.post("/score", json=good, headers=HEADERS).status_code == 200


def test_one_text_that_cannot_be_scored_does_not_take_the_others_with_it(reward):
    watched = Watched(reward)
    watched.gate.clear()
    turn = [{"role": "assistant", "content": "r"}]  # behind a prompt of text: cannot be rendered
    bodies = [{"prompts": ["p"], "responses": [response]} for response in ("a", turn, "b")]
    with serving(watched) as client, ThreadPoolExecutor(3) as clients:
        asked = [clients.submit(client.post, "/score", json=body, headers=HEADERS) for body in bodies]
        wait_until(lambda: watched.calls == 1)
        watched.gate.set()
        assert [answer.result().status_code for answer in asked] == [200, 422, 200]


def test_the_command_serves_on_loopback_with_a_token_of_its_own(reward_folder):
    command = [sys.executable, "-m", "redline.cli", "serve-reward", str(reward_folder), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        said = ""
        while "token:" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        place = re.search(r"http://127\.0\.0\.1:\d+", said)[0]
        token = re.search(r"token: (\S+)", said)[1]
        body = {"prompts": ["p"], "responses": [" r"]}
        assert httpx.post(f"{place}/score", json=body, timeout=60).status_code == 401
        asked = httpx.post(f"{place}/score?token={token}", json=body, timeout=60)
        assert asked.json()["scores"][0]["text"] == " r"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def test_a_port_that_is_taken_is_one_line(redline, reward_folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, _, err = redline("serve-reward", reward_folder, "--port", port)
    assert status == 2
    assert "Choose another port" in err
