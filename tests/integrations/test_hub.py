"""Pushing to the Hub, at a stand-in of it."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from redline import UserError
from redline.integrations.hub import plan_uploads


class StandIn(BaseHTTPRequestHandler):
    """The few routes of the Hub that an upload of small files needs; keeps what was committed."""

    def do_GET(self):
        if self.server.refuse:  # a repository that is not there yet cannot be looked at either
            self._answer({"error": "no"}, 404)
            return
        self._answer({"id": "x", "sha": "0" * 40, "siblings": []})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(self.path)
        if self.server.refuse:
            self._answer({"error": "no"}, 403)
        elif self.path.endswith("/repos/create"):
            plain = json.loads(body)
            self.server.created.append(plain)
            name = "/".join(filter(None, (plain.get("organization"), plain["name"])))
            self._answer({"url": self._address(name), "name": name})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            regular = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            self._answer({"files": regular})
        elif "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            repository = self.path.split("/models/")[1].split("/commit/")[0]
            for line in lines:
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.files[f"{repository}/{line['value']['path']}"] = content
            self._answer({"success": True, "commitOid": "1" * 40, "commitUrl": self._address(repository)})
        else:
            self._answer({})

    def _address(self, repository):
        return f"http://127.0.0.1:{self.server.server_port}/{repository}"

    def _answer(self, plain, status=200):
        data = json.dumps(plain).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.asked, server.created, server.files, server.refuse = [], [], {}, False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    yield server
    server.shutdown()


@pytest.fixture
def run(tmp_path):
    """A finished run's folder: what is for others, and what is not."""
    files = {
        "policy/config.json": "{}",
        "policy/model.safetensors": "weights",
        "policy/README.md": "# A policy",
        "policy/tokenizer.json": "{}",
        "policy/adapter/adapter_model.safetensors": "adapter",
        "policy/adapter/adapter_config.json": "{}",
        "policy/log.jsonl": "{}",
        "policy/samples.jsonl": "private texts",
        "policy/checkpoints/000010/model.safetensors": "checkpoint",
        "policy/watch/reference.jsonl": "private texts",
        "reward/config.json": "{}",
        "reward/model.safetensors": "weights",
        "reward/best.safetensors": "best",
        "reward/README.md": "# A reward",
        "reward/metrics.json": "{}",
        "reward/scores.jsonl": "private texts",
        "data/edits.jsonl": "private texts",
    }
    for name, text in files.items():
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "run"


def test_a_dry_run_says_what_it_would_do_and_asks_nothing(hub, run, redline):
    status, out, _ = redline("push", run, "--to", "ada/kind")
    assert status == 0
    assert "policy -> ada/kind (private)" in " ".join(out.split())
    assert "reward -> ada/kind-reward (private)" in " ".join(out.split())
    assert "nothing was uploaded" in out
    assert not hub.asked


def test_an_upload_carries_models_and_cards_and_no_texts_and_no_checkpoints(hub, run, redline):
    status, out, err = redline("push", run, "--to", "ada/kind", "--upload")
    assert status == 0, err
    assert sorted(hub.files) == [
        "ada/kind-reward/README.md",
        "ada/kind-reward/config.json",
        "ada/kind-reward/metrics.json",
        "ada/kind-reward/model.safetensors",
        "ada/kind/README.md",
        "ada/kind/adapter/adapter_config.json",
        "ada/kind/adapter/adapter_model.safetensors",
        "ada/kind/config.json",
        "ada/kind/model.safetensors",
        "ada/kind/tokenizer.json",
    ]
    assert hub.files["ada/kind/README.md"] == b"# A policy"
    assert [made["visibility"] for made in hub.created] == ["private", "private"]
    assert out.count("uploaded: ") == 2


def test_a_models_folder_alone_and_public(hub, run, redline):
    status, _, err = redline("push", run / "reward", "--to", "ada/marks", "--upload", "--public")
    assert status == 0, err
    assert {name.rsplit("/", 1)[0] for name in hub.files} == {"ada/marks"}
    assert hub.created[0]["visibility"] == "public"


def test_what_cannot_be_pushed_is_one_line(hub, run, redline):
    hub.refuse = True
    status, _, err = redline("push", run, "--to", "ada/kind", "--upload")
    assert (status, err.count("\n")) == (2, 1)
    assert "ada/kind: the Hub refused (403). Check HF_TOKEN" in err
    (run / "policy/README.md").unlink()
    with pytest.raises(UserError, match="has no model card"):
        plan_uploads(run, "ada/kind")
    assert [part.repository for part in plan_uploads(run, "ada/kind", "reward")] == ["ada/kind-reward"]
    with pytest.raises(UserError, match="OWNER/MODEL"):
        plan_uploads(run, "kind")
    with pytest.raises(UserError, match="no finished policy or reward"):
        plan_uploads(run / "data", "ada/kind")
