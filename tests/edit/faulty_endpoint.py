"""An OpenAI-compatible endpoint on loopback that edits by rule and for a share of its answers goes wrong in
one of six ways."""

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("429", "500", "hang", "drop", "truncated", "empty choice")
RETRY_AFTER = 0.4  # seconds


class FaultyEndpoint(ThreadingHTTPServer):
    """Edits responses of the form "answer <id> is bad": bad becomes good. Ids that end in 77 it refuses to
    edit, always."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, share: float, hang: float = 2.0, seed: int = 0):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.share, self.hang, self._random, self._lock = share, hang, random.Random(seed), threading.Lock()
        self.faults: Counter[str] = Counter()
        self.requests = 0
        self.bodies: list[dict] = []
        self.not_before: dict[str, float] = {}  # id -> when the next request for it may come, by Retry-After
        self.too_early: list[str] = []
        self.stopping = threading.Event()
        self.reply: Callable[[str, dict], str] = by_rule
        self.statuses: dict[str, int] = {}  # id, or * for all -> the status that its requests always get
        self.models: dict[str, int] = {}  # a model -> the same
        self.headers: dict[str, str] = {}  # of answers with such a status
        self.usage: object = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def draw(self, item: str, body: dict) -> str | None:
        """Count the request and choose how it goes wrong, if it does."""
        with self._lock:
            self.requests += 1
            self.bodies.append(body)
            if time.monotonic() < self.not_before.pop(item, 0):
                self.too_early.append(item)
            fault = self._random.choice(FAULTS) if self._random.random() < self.share else None
            self.faults[fault or "none"] += 1
            if fault == "429":
                self.not_before[item] = time.monotonic() + RETRY_AFTER
            return fault


def by_rule(item: str, body: dict) -> str:
    """What the endpoint answers: the edit, or a refusal."""
    return (
        "I'm sorry, but I cannot do that."
        if item.endswith("77")
        else f"the answer {item} is good, as far as I can tell"
    )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyEndpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = "\n".join(message["content"] for message in body["messages"])
        item = re.search(r"answer (\w+) is bad", text)[1]
        status = (
            self.server.statuses.get(item)
            or self.server.statuses.get("*")
            or self.server.models.get(body["model"])
            or (self.path != "/v1/chat/completions") * 404
        )
        if status:
            said = f"no such parameter; you sent {self.headers['Authorization']}"
            return self._send(status, json.dumps({"error": {"message": said}}).encode(), self.server.headers)
        match self.server.draw(item, body):
            case "429":
                self._send(429, b'{"error": {"message": "slow down"}}', {"Retry-After": str(RETRY_AFTER)})
            case "500":
                self._send(500, b'{"error": {"message": "out of order"}}')
            case "hang":
                self.server.stopping.wait(self.server.hang)
                self.close_connection = True
            case "drop":
                self.close_connection = True
            case "truncated":
                whole = self._answer(item, body)
                self._send(200, whole[: len(whole) // 2])
            case "empty choice":
                self._send(200, json.dumps({"id": "1", "object": "chat.completion", "choices": []}).encode())
            case None:
                self._send(200, self._answer(item, body))
        return None

    def _answer(self, item: str, body: dict) -> bytes:
        message = {"role": "assistant", "content": self.server.reply(item, body)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return json.dumps(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": "rule",
                "choices": [choice],
                "usage": self.server.usage,
            }
        ).encode()

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, ValueError):  # a client that was killed, with its request half sent
            self.close_connection = True


@contextmanager
def serving(share: float = 0.0, hang: float = 2.0, seed: int = 0) -> Iterator[FaultyEndpoint]:
    """The endpoint, running."""
    with FaultyEndpoint(share, hang, seed) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.stopping.set()
            server.shutdown()
            thread.join()


def pairs(count: int) -> list[dict]:
    """As many pairs that the endpoint can edit; one in a hundred it refuses."""
    return [
        {
            "id": f"p{number}",
            "prompt": f"Question {number}?",
            "chosen": "It is good.",
            "rejected": f"the answer p{number} is bad, as far as I can tell",
            "topic": number % 7,
        }
        for number in range(count)
    ]
