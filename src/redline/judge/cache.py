"""Verdicts that were given once and are never asked (or paid) for again: one SQLite file, safe against a kill
at any moment."""

import hashlib
import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from redline.data.records import Text
from redline.errors import UserError


class VerdictCache:
    """Preferences by content and judge. ``path=None`` keeps them in memory only. Close it, or use it in a
    ``with``."""

    def __init__(self, path: str | Path | None):
        self.path = path
        try:
            if path is not None:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path if path is not None else ":memory:", timeout=60)
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, preference REAL, judge TEXT)"
            )
            self._database.execute(
                "SELECT key, preference, judge FROM verdicts LIMIT 0"
            )  # not another program's table
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"{path}: not a usable cache of verdicts ({error}). Choose another file."
            ) from error

    def __enter__(self) -> "VerdictCache":
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def get(self, key: str) -> float | None:
        """The preference stored under ``key``, or None."""
        try:
            row = self._database.execute("SELECT preference FROM verdicts WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise UserError(
                f"{self.path}: verdicts cannot be read ({error}). Choose another --cache."
            ) from error
        return None if row is None else float(row[0])

    def put(self, verdicts: Iterable[tuple[str, float, str]]) -> None:
        """Store (key, preference, judge's name) rows; on disk when this returns."""
        try:
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", verdicts)
        except sqlite3.Error as error:
            raise UserError(
                f"{self.path}: verdicts cannot be stored ({error}). Choose another --cache."
            ) from error


def verdict_key(settings: dict[str, object], prompt: Text, a: Text, b: Text, repeat: int = 0) -> str:
    """The name of one question: the judge with its settings, the texts in the order shown, and which asking
    it is."""
    content = json.dumps([settings, prompt, a, b, repeat], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
