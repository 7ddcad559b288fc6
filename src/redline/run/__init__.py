"""A run: its state, its stages, its folder and the names of its files."""

from redline.run.run import Run, run_recipe

__all__ = ["Run", "run_recipe"]
