"""The commands, a few lines each over the stage they run. Nothing heavy is imported before its command needs
it: a command imports inside its function.

A group of commands is a file; ``redline --help`` lists the groups in the order in which they are imported
here.
"""

from redline.cli import runs, corrections, people, judging, models  # noqa: I001 (the order of the help)
from redline.cli.app import app, main

__all__ = ["app", "corrections", "judging", "main", "models", "people", "runs"]
