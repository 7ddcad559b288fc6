"""What all rooms' tests share."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # in the background a shell ignores it, and so would what tests start


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Public data sets that are not part of the project: $REDLINE_DATA or ../shared/data beside the
    checkout."""
    folder = Path(os.environ.get("REDLINE_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}: set REDLINE_DATA")
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A small byte-level tokenizer, trained on nothing that has to be downloaded."""
    from tiny_tokenizers import byte_bpe

    return byte_bpe()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> str:
    """The folder of a tiny random Llama with a real byte-level tokenizer."""
    from tiny_models import model_folder

    return model_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def cases_dir() -> Path:
    """Small files of the kinds that people have: $REDLINE_CASES or ../shared/cases beside the checkout."""
    folder = Path(os.environ.get("REDLINE_CASES") or ROOT.parent / "shared" / "cases")
    if not folder.is_dir():
        pytest.skip(f"no folder of cases at {folder}: set REDLINE_CASES")
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless browser, closed behind each module: while Playwright runs, its event loop is in every other
    test's way."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
    ]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def redline(monkeypatch, capsys):
    """Run a command line in this process: (status, stdout, stderr)."""
    from redline.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["redline", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def edits_file(tmp_path) -> Path:
    """Thirty small edits, each from bad to good."""
    path = tmp_path / "edits.jsonl"
    subjects = ["film", "book", "actors", "play", "system", "user"]
    tails = ["not unfair", "very much", "the film", "I", "this", "they"]
    rows = [
        {
            "id": f"e{number}-{subject}",
            "prompt": f"the {subject} {number} was",
            "rejected": f" bad and {tail}",
            "edited": f" good and {tail}",
        }
        for number in range(5)
        for subject, tail in zip(subjects, tails, strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
