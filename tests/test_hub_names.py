"""A name on the Hub that leads nowhere is one line within seconds, with no network and with a typing error.
The Hub is a server of this test; the cache a folder of it."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

NOBODY = "http://127.0.0.1:9"
SILENT_AFTER = 30  # seconds that a host takes which does not answer


class Hub(BaseHTTPRequestHandler):
    """The Hub's answers about models: it has `ada/kind-model`, and `ada/closed`, which is gated."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/silent"):
            time.sleep(SILENT_AFTER)
            return
        if path in ("/api/models/ada/kind-model", "/api/models/ada/closed"):
            name = path.removeprefix("/api/models/")
            self._answer({"id": name, "gated": "auto" if name == "ada/closed" else False}, 200)
        elif path == "/api/models":
            self._answer([{"id": "ada/kind-model"}, {"id": "ada/another"}], 200)
        else:
            self._answer({"error": "no"}, 401, {"X-Error-Code": "RepoNotFound"})

    def _answer(self, body: object, status: int, headers: dict[str, str] | None = None) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def check(name: str, cache: Path, endpoint: str, **more: str) -> tuple[str, float]:
    """What a new process says of a name, and the seconds that the check itself takes."""
    code = (
        "import sys, time; from redline.errors import UserError; from redline.hub import check_on_hub\n"
        "import huggingface_hub.hf_api\nbegun = time.monotonic()\n"
        f"try: check_on_hub({name!r}); check_on_hub({name!r}); said = 'fine'\n"
        "except UserError as error: said = str(error)\n"
        "from huggingface_hub import constants\n"
        "print(said, '| offline' if constants.is_offline_mode() else '|'); print(time.monotonic() - begun)"
    )
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache)} | more
    environment = {key: value for key, value in environment.items() if key not in ("HF_TOKEN", "HF_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    said, seconds = done.stdout.strip().split("\n")
    assert "Retrying" not in done.stderr
    return said, float(seconds)


def put_into_cache(cache: Path, name: str) -> None:
    """As a download leaves a model."""
    folder = cache / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (folder / "snapshots" / ("0" * 40) / "config.json").write_text("{}")


def test_a_name_that_the_hub_has(hub: str, tmp_path: Path) -> None:
    assert check("ada/kind-model", tmp_path, hub)[0] == "fine |"


def test_a_misspelt_name_gets_the_nearest_one(hub: str, tmp_path: Path) -> None:
    said, _ = check("ada/kind-modle", tmp_path, hub)
    assert said == (
        "ada/kind-modle: the Hugging Face Hub has no such model. Did you mean `ada/kind-model`? |"
    )


def test_conditions_that_are_not_accepted(hub: str, tmp_path: Path) -> None:
    said, _ = check("ada/closed", tmp_path, hub)
    assert f"its conditions have to be accepted on {hub}/ada/closed" in said


@pytest.mark.parametrize("endpoint", [NOBODY, "silent"])
def test_without_a_network_it_takes_seconds(hub: str, tmp_path: Path, endpoint: str) -> None:
    said, seconds = check("ada/none", tmp_path, f"{hub}/silent" if endpoint == "silent" else endpoint)
    assert said.startswith("ada/none: is not on this machine, and the Hugging Face Hub cannot be reached (")
    assert "hf download ada/none" in said
    assert seconds < 8


def test_without_a_network_the_copy_on_this_machine_is_used(tmp_path: Path) -> None:
    put_into_cache(tmp_path, "ada/kind-model")
    assert check("ada/kind-model", tmp_path, NOBODY)[0] == "fine | offline"
    assert "Did you mean `ada/kind-model`?" in check("ada/kind-modl", tmp_path, NOBODY)[0]


def test_offline_by_choice_nothing_is_asked(hub: str, tmp_path: Path) -> None:
    said, _ = check("ada/kind-model", tmp_path, hub, HF_HUB_OFFLINE="1")
    assert said.startswith(
        "ada/kind-model: is not on this machine, and HF_HUB_OFFLINE is set. Check the name"
    )
    put_into_cache(tmp_path, "ada/kind-model")
    assert check("ada/kind-model", tmp_path, hub, HF_HUB_OFFLINE="1")[0] == "fine | offline"


@pytest.mark.parametrize(
    ("command", "where"),
    [
        ("check r.yaml model.name=ada/none", "model.name: "),
        ("check r.yaml compare.judge=ada/none", "compare.judge: "),
        ("check r.yaml policy.reward=[{model:_ada/none}]", "policy.reward.0.model: "),
        ("run r.yaml model.name=ada/none", "model.name: "),
        ("plan r.yaml model.name=ada/none", ""),
        ("label edits.jsonl --out l.jsonl --tokenizer ada/none", ""),
    ],
)
def test_commands_say_one_line(
    redline: Any,
    tmp_path: Path,
    edits_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    where: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text("data: {edits: {path: edits.jsonl}}\ncompare: {judge: length}\n")
    monkeypatch.setattr("redline.hub._not_reached", ["no network"])
    status, _, err = redline(*(word.replace("_", " ") for word in command.split()))
    assert status in (1, 2)
    start = f"redline: {where}ada/none: is not on this machine, and the Hugging Face Hub cannot be reached"
    assert [line for line in err.splitlines() if line.startswith(start)]
    assert "Traceback" not in err
