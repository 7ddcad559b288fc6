"""What the commands ``redline edit`` and ``redline edits`` do: read, run, print."""

from collections import Counter
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from redline.console import print_json
from redline.data.check import Rejects
from redline.data.files import check_apart, explain, whole_file
from redline.data.fits import fits_model
from redline.data.read import read, read_files
from redline.data.records import Edit, ToEdit
from redline.data.rows import rows
from redline.data.settings import Source
from redline.data.show import visible
from redline.edit.counts import REASONS
from redline.edit.llm import dry_run, edit_pairs, rejects_path
from redline.edit.picture import picture
from redline.edit.settings import EditWith
from redline.edit.stats import show, statistics
from redline.errors import CheckFailed, UserError
from redline.types import JsonObject


def edit(
    source: Source,
    out: Path,
    settings: JsonObject,
    dry: bool,
    for_model: str | None = None,
    max_prompt_tokens: int | None = None,
    as_json: bool = False,
) -> None:
    """Read the pairs and edit them, or show what would be asked. ``settings`` is what the options say.

    Pairs that ``for_model``, the model that is to learn from the edits, cannot take are left out first.
    """
    pairs = source.name
    try:
        editing = EditWith.model_validate(settings)
    except ValidationError as error:
        field, _, problem = explain(error).partition(": ")
        name = {"skip_gates": "skip_gate"}.get(field.split(".")[0], field.split(".")[0])
        raise UserError(f"--{name.replace('_', '-')}: {problem}.") from error
    if not dry:
        check_apart([out, rejects_path(out)], read_files(source))
    unreadable = None if dry else out.with_suffix(".unreadable.jsonl")
    with Rejects(unreadable) as rejects:
        todo = list(read(source, ToEdit, rejects, refuse=fits_model(for_model, max_prompt_tokens)))
    if rejects.total or rejects.notes:
        rejects.report(pairs)
    if not todo:
        raise UserError(f"{pairs}: no pair in it that can be edited ({rejects.summary()}).")
    if dry:
        estimate = dry_run(todo, editing)
        if as_json:
            print_json(estimate.as_json())
        else:
            print(visible(str(estimate)))
    else:
        counts = edit_pairs(todo, out, editing)
        if as_json:
            print_json({"out": str(out)} | counts.as_json(editing))
        if not counts.accepted:
            raise CheckFailed(
                f"{out}: no edit was accepted, {counts.refused.total()} were refused. Read the answers in "
                f"{rejects_path(out)}; then choose a more capable --model, or another --template."
            )


def statistics_of(source: Source, drawing: Path | None, as_json: bool = False) -> None:
    """Print the statistics of edits, and draw them."""
    edits = source.name
    if drawing is not None and drawing.suffix != ".svg":
        raise UserError(f"--picture {drawing}: only .svg is written. Name it {drawing.with_suffix('.svg')}.")
    with Rejects() as rejects:
        found = list(read(source, Edit, rejects, keep_unchanged=True))
    if rejects.total or rejects.notes:
        rejects.report(edits)
    if not found:
        raise UserError(f"{edits}: no edit in it ({rejects.summary()}).")
    figures, name, out = statistics(found), Path(edits).name, Console(soft_wrap=True)
    refused = _refused(Path(edits))
    if as_json:
        print_json(figures.as_json() | {"refused": dict(refused)})
    else:
        show(figures, name, out)
    if refused and not as_json:
        reasons = ", ".join(
            f"{count} {gate} ({REASONS.get(gate, 'other')})" for gate, count in refused.most_common()
        )
        out.print(Text(visible(f"not among them, refused: {reasons}")), soft_wrap=True)
    if drawing is not None:
        with whole_file(drawing) as file:
            file.write(picture(figures, name))


def _refused(edits: Path) -> Counter[str]:
    """Why pairs were refused, from the rejects that ``redline edit`` left beside its edits."""
    path = rejects_path(edits)
    if not path.is_file():
        return Counter()
    found = rows(Source(path=str(path)))
    return Counter(str(row.values["gate"]) for row in found if not row.problem and "gate" in row.values)
