"""What ends a command without a fault of the program: a mistake of the user's, a check that fails."""

from collections.abc import Sequence
from pathlib import Path


class UserError(Exception):
    """A mistake the user can mend. The command line prints it on stderr, without a traceback, and exits with
    status 2.

    The message is one line: what is wrong, where (file, line, field, recipe key), and how to mend it, e.g.
    ``edits.jsonl, line 3: not valid JSON (Expecting ',' delimiter, column 41). Fix or delete the line.``
    """


class CheckFailed(Exception):
    """A check that was asked for has failed. The command line prints it on stderr and exits with status 1."""


class Problems(UserError):
    """Several mistakes, found at once; the text has a line for each."""

    def __init__(self, problems: Sequence[str]):
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def cannot_write(path: Path | str | None, error: Exception, remedy: str) -> UserError:
    """What is said of a file or folder that cannot be written; ``remedy``, a sentence, is how to mend it."""
    reason = getattr(error, "strerror", None) or error
    return UserError(f"{path}: cannot be written ({reason}). {remedy}")
