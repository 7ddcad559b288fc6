"""Redline aligns language models from minimal edits.

Stages, one folder each: data, edit, label, reward, policy, judge, report. See docs/ for how to use them from
Python.
"""

__version__ = "0.1.0"
