"""The page's section on data: what was read and left out, how minimal the edits are, what is labelled."""

import re
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import TypedDict

from markupsafe import Markup

from redline.data.files import read_jsonl
from redline.data.records import Edit, as_text
from redline.data.settings import Source
from redline.data.show import DELETED, INSERTED, diff, visible
from redline.edit.gates import MEANING
from redline.edit.stats import BIN, KINDS, statistics
from redline.report import charts
from redline.report.charts import number
from redline.report.folder import Line, RunFolder
from redline.report.result import shorten
from redline.types import JsonObject

MOST = 20_000  # edits and labels that statistics are taken of
SHOWN = 4  # edits shown as examples
LONGEST = 3000  # characters of a side that are shown
SETS = ("pairs", "edits", "validation", "test", "prompts", "eval_prompts")
BAR = {"kept": "z", "substituted": "s3", "deleted": "n3", "inserted": "p3"}  # colours of kinds of words


class Data(TypedDict):
    """What the template shows of a run's data."""

    sets: list[JsonObject]
    edits: JsonObject | None
    labels: list[JsonObject]


def data(run: RunFolder) -> Data | None:
    """What was read and left out, how minimal the edits are, how many tokens are labelled. None before the
    data stage."""
    sets = [_set(run, name) for name in SETS if run.files.data(name).exists()]
    if not sets:
        return None
    edits = _edits(run) if run.files.data("edits").exists() else None
    return {"sets": sets, "edits": edits, "labels": _labels(run)}


def _edits(run: RunFolder) -> JsonObject:
    file = run.files.data("edits")
    edits = list(islice(read_jsonl(file, Edit), MOST))
    figures = statistics(edits)
    editors = [f"{name} ({group.edits:,})" for name, group in islice(figures.by_editor.items(), 5)]
    title, x_label = "Edit ratio", "share of the words changed"
    examples = []
    for drawn in run.drawn([{"edit": edit} for edit in edits], SHOWN):
        edit = drawn["edit"]
        examples.append({"id": edit.id, "prompt": shorten(edit.prompt), "text": _changes(edit)})
    return {
        "count": len(edits),
        "cut": run.count(file) > MOST,
        "median": number(figures.all.median, 2),
        "histogram": charts.histogram(title, x_label, figures.all.histogram(), BIN, "edits"),
        "words": charts.share_bar([(BAR[kind], kind, figures.all.words[kind]) for kind in KINDS]),
        "editors": ", ".join(editors),
        "examples": examples,
    }


def _set(run: RunFolder, name: str) -> JsonObject:
    """One source of records: how many were kept, and why the others were left out."""
    source: Source | None = getattr(run.recipe.data, name)
    reasons: Counter[str] = Counter()
    rejects = _rejects_of(run, name)
    for file in rejects:
        for line in run.stream(file):
            reasons[re.sub(r" \(.*\)$", "", _why(line))] += 1
    return {
        "name": name.replace("_", " "),
        "source": source.name if source else "made from the pairs",
        "kept": run.count(run.files.data(name)),
        "left": reasons.total(),
        "reasons": ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common(4)),
        "file": run.name_of(run.files.data(name)),
        "rejects": [run.name_of(file) for file in rejects if file.exists()],
    }


def _rejects_of(run: RunFolder, name: str) -> list[Path]:
    """The files that hold what was left out of a source. Edits are labelled as those for training and, with
    no source of its own, for validation."""
    files = [run.files.data_rejects(name), run.files.labels_rejects(name)]
    if name == "edits":
        files.append(run.files.labels_rejects("train"))
        if run.recipe.data.validation is None:
            files.append(run.files.labels_rejects("validation"))
    return files


def _why(line: Line) -> str:
    """Why a record was left out; the answers that `redline edit` refused say at which gate."""
    return str(line.get("reason") or MEANING.get(line.get("gate", ""), line.get("why") or "no reason given"))


def _labels(run: RunFolder) -> list[JsonObject]:
    """Counts of labelled tokens, for each set of labels."""
    rows = []
    for name in ("train", "validation", "test"):
        counts = {"edits": 0, "removed": 0, "added": 0, "neutral": 0}
        for line in islice(run.stream(run.files.labels(name)), MOST):
            rejected, edited = line.get("rejected_labels", []), line.get("edited_labels", [])
            counts["edits"] += 1
            counts["removed"] += rejected.count(-1)
            counts["added"] += edited.count(1)
            counts["neutral"] += rejected.count(0) + edited.count(0)
        if counts["edits"]:
            rows.append({"name": name, "file": run.name_of(run.files.labels(name)), **counts})
    return rows


def _changes(edit: Edit) -> Markup:
    """An edit in one text: struck what it removed, underlined what it put in."""
    tags = {DELETED: Markup("<del>{}</del>"), INSERTED: Markup("<ins>{}</ins>")}
    text = Markup("")
    rejected = as_text(edit.rejected).strip()[:LONGEST]
    edited = as_text(edit.edited).strip()[:LONGEST]
    for style, piece in diff(rejected, edited):
        words = piece.lstrip()
        space = piece[: len(piece) - len(words)]
        tag = tags.get(style, Markup("{}"))
        text += Markup("{}{}").format(space, tag.format(visible(words)) if piece else "")
    return Markup('<p class="text" dir="auto">{}</p>').format(text)
