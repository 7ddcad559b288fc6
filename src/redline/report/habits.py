"""What the policy says more often than the model it started from: words, and first words of answers."""

from dataclasses import dataclass

from redline.data.records import as_text
from redline.judge.text import Phrase, is_overused, openings_more_often, words_more_often
from redline.report.folder import RunFolder
from redline.types import Config

MOST = 2_000  # compared prompts that are read
LONGEST = 4_000  # characters of an answer that are read


@dataclass(frozen=True)
class Habits:
    """Words and openings that stand in clearly more of the ``answers`` after than before, the clearest
    first."""

    answers: int
    words: list[Phrase]
    openings: list[Phrase]

    @property
    def overused(self) -> str:
        """The words and openings that make the answers alike, with their counts; empty where none does."""
        words = [_counts(phrase, "is in", self.answers) for phrase in self._common(self.words)]
        openings = [_counts(phrase, "begins", self.answers) for phrase in self._common(self.openings)]
        return ", ".join(words + openings)

    def _common(self, phrases: list[Phrase]) -> list[Phrase]:
        return [phrase for phrase in phrases if is_overused(phrase, self.answers)]


def habits(run: RunFolder) -> Habits:
    """What the compared answers of a run say more often than before; nothing without a comparison."""
    rows = run.verdicts()[:MOST]
    before = [_text(row["b"]) for row in rows]
    after = [_text(row["a"]) for row in rows]
    return Habits(len(rows), words_more_often(before, after), openings_more_often(before, after))


def _text(answer: Config) -> str:
    if isinstance(answer, str | list):
        return as_text(answer)[:LONGEST]
    return str(answer)[:LONGEST]


def _counts(phrase: Phrase, verb: str, answers: int) -> str:
    return f"“{phrase.text}” {verb} {phrase.after:,} of {answers:,} answers ({phrase.before:,} before)"
