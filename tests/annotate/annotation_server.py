"""`redline annotate` in a process of its own, and a client that does what the page's JavaScript does."""

import json
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx


class Server:
    """`redline annotate` in a process of its own. ``links``: name -> link."""

    def __init__(self, folder: Path, *arguments: str, db: str | None = None):
        self.folder, self.arguments = folder, arguments
        self.db = db or f"sqlite:///{folder}/edits.db"
        self.links: dict[str, str] = {}
        self.start()

    def start(self, port: int = 0) -> None:
        command = [
            sys.executable,
            "-m",
            "redline.cli",
            "annotate",
            *self.arguments,
            "--db",
            self.db,
            "--port",
            str(port),
        ]
        self.errors = (self.folder / "stderr.txt").open("a")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        assert self.process.stdout
        names = (self.arguments[self.arguments.index("--annotators") + 1]).split(",")
        for _ in range(len(names) + 1):
            line = self.process.stdout.readline()
            assert line, (self.folder / "stderr.txt").read_text()
            name, _, link = line.strip().partition(": ")
            self.links[name] = link
        self.base = re.match(r"http://[^/]+", link)[0]  # type: ignore[index]
        self.port = int(self.base.rpartition(":")[2])

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.errors.close()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        self.errors.close()

    def client(self, name: str) -> "Client":
        return Client(self.base, self.links[name])


class Client:
    """One person at a browser, without the browser."""

    def __init__(self, base: str, link: str):
        self.base = base
        self.http = httpx.Client(base_url=base, headers={"Origin": base}, timeout=30, follow_redirects=True)
        self.entered = self.http.get(link)
        if self.entered.status_code == 200:  # the page says whose link it is; its script goes on
            self.entered = self.http.post(link, follow_redirects=False)
        self.data: dict[str, Any] = {}

    def page(self) -> dict[str, Any] | None:
        """Open the work page; its data, or None when nothing is left."""
        response = self.http.get("/")
        assert response.status_code == 200, response.text
        found = re.search(r'<script type="application/json" id="data">(.*?)</script>', response.text)
        self.data = json.loads(found[1]) if found else {}
        return self.data if "work" in self.data else None

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        token = {"X-CSRF-Token": self.data.get("csrf", "")}
        content = json.dumps(body)  # in ASCII, as one can also write half a character
        return self.http.post(
            path, content=content, headers={"Content-Type": "application/json"} | token | headers
        )

    def submit(self, text: str | None, verdict: str = "edited", **more: Any) -> httpx.Response:
        body = {"work": self.data["work"], "verdict": verdict, "text": text, "note": "", "seconds": 3}
        body |= {"revision": self.data.get("revision", 0), "token": secrets.token_hex(8)}
        return self.post("/api/submit", body | more)


def write_pairs(path: Path, count: int) -> Path:
    """``count`` pairs of ten words, the last of which is wrong."""
    with path.open("w") as out:
        for number in range(count):
            start = f"item {number} has words of which the last one is"
            out.write(
                json.dumps(
                    {
                        "id": f"p{number}",
                        "prompt": f"Prompt {number}",
                        "chosen": f"{start} good",
                        "rejected": f"{start} bad",
                        "source": "test",
                    }
                )
                + "\n"
            )
    return path


def write_records(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def export(server: Server, *arguments: str) -> list[dict[str, Any]]:
    """What `redline export` writes."""
    out = server.folder / "export.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "redline.cli", "export", "--db", server.db, "--out", str(out), *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n") if line]


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
