"""Any file of any format: rows in = kept + left out; never anything but records, reasons or one line."""

import csv
import json
import warnings

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redline.data.check import Rejects
from redline.data.exports import EXPORTS
from redline.data.files import line_of
from redline.data.read import read
from redline.data.records import Edit, Pair, Prompt, Response, ToEdit
from redline.data.settings import Source
from redline.errors import UserError

quick = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
KINDS = (Edit, Pair, ToEdit, Prompt, Response)
NAMES = (
    "id",
    "prompt",
    "chosen",
    "rejected",
    "edited",
    "response",
    "system",
    "tools",
    "editor",
    "messages",
    "x",
)
text = st.text(max_size=12) | st.sampled_from(
    [
        '"Yes," he said',
        'a "b',
        "a\tb",
        "line\nline",
        "a;b",
        "\ufeff",
        "",
        " ",
        "[{'role': 'user'}]",
        '{"role": "x"}',
    ]
)
message = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system", "tool", "gpt"]),
        "from": st.sampled_from(["human", "gpt", "function_call"]),
        "content": text
        | st.none()
        | st.lists(st.fixed_dictionaries({"type": text, "text": text}), max_size=2),
        "value": text,
        "tool_calls": st.none() | st.lists(st.fixed_dictionaries({"function": st.none() | text}), max_size=1),
    },
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text | st.lists(message, max_size=3) | message,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2),
    max_leaves=4,
)
record = st.dictionaries(st.sampled_from(NAMES), anything, max_size=7)
records = st.lists(record, min_size=1, max_size=6)


def balanced(path, count, **options):
    """Reads a file as every kind of record; a file as a whole may be refused, in one line."""
    for kind in KINDS:
        rejects = Rejects()
        kept, refused = [], ""
        try:
            kept = list(read(Source(path=str(path), **options), kind, rejects))
        except UserError as error:
            refused = str(error)
        assert "\n" not in refused
        if refused:
            continue
        assert len(kept) == rejects.kept
        if count is not None:
            assert len(kept) + rejects.total == count
        for one in kept:
            again = kind.model_validate_json(line_of(one))
            assert again == one or any(word in repr(one) for word in ("nan", "inf"))


@quick
@given(records)
@pytest.mark.parametrize("name", ["e.jsonl", "lines.json", "list.json", "printed.jsonl"])
def test_json(tmp_path, name, records):
    path = tmp_path / name
    if name == "list.json":
        path.write_text(json.dumps(records), encoding="utf-8")
    elif name == "printed.jsonl":
        path.write_text(json.dumps(records, indent=1), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    balanced(path, len(records))


@quick
@given(st.lists(st.lists(text, min_size=3, max_size=3), min_size=1, max_size=6), st.sampled_from(",;\t|"))
def test_tables_as_a_writer_writes_them(tmp_path, rows, delimiter):
    path = tmp_path / "t.csv"
    with path.open("w", encoding="utf-8", newline="") as out:
        table = csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        table.writerow(["prompt", "rejected", "edited"])
        table.writerows(rows)
    balanced(path, sum(any(cells) for cells in rows), delimiter=delimiter, quoting="standard")


@quick
@given(st.lists(st.text(alphabet='ab"\t;,\r', min_size=1, max_size=12), min_size=1, max_size=8))
@pytest.mark.parametrize("quoting", ["auto", "none", "standard"])
def test_tables_with_whatever_lines(tmp_path, quoting, lines):
    path = tmp_path / "t.tsv"
    path.write_bytes(("prompt\trejected\tedited\n" + "\n".join(lines) + "\n").encode())
    unquoted = sum(bool(line.rstrip("\r").strip()) for line in lines)
    balanced(path, unquoted if quoting == "none" else None, quoting=quoting)


@quick
@given(
    st.lists(st.dictionaries(st.sampled_from(NAMES), text | st.none(), max_size=5), min_size=1, max_size=6)
)
@pytest.mark.parametrize("name", ["e.parquet", "e.xlsx"])
def test_tables_of_cells(tmp_path, name, records):
    path = tmp_path / name
    columns = sorted({key for one in records for key in one}) or ["prompt"]
    rows = [[one.get(column) for column in columns] for one in records]
    if name == "e.parquet":
        cells = {column: [row[place] for row in rows] for place, column in enumerate(columns)}
        schema = pyarrow.schema([(column, pyarrow.string()) for column in columns])
        pyarrow.parquet.write_table(pyarrow.table(cells, schema=schema), path)
        balanced(path, len(records))
        return
    openpyxl = pytest.importorskip("openpyxl")
    from openpyxl.utils.exceptions import IllegalCharacterError

    book = openpyxl.Workbook()
    written = 0
    book.active.append(columns)
    for row in rows:
        try:
            book.active.append(row)
        except IllegalCharacterError:
            return
        written += any(cell is not None for cell in row)
    book.save(path)
    balanced(path, None if any(cell == "" for row in rows for cell in row) else written)


@quick
@given(records)
@pytest.mark.parametrize("format", sorted(EXPORTS))
def test_exports_of_other_tools(tmp_path, format, records):
    path = tmp_path / "e.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    balanced(path, None, format=format)


@quick
@given(st.binary(max_size=200))
@pytest.mark.parametrize(
    "ending", ["jsonl", "json", "csv", "tsv", "parquet", "xlsx", "jsonl.gz", "csv.zst", "tsv.xz"]
)
def test_bytes_that_mean_nothing(tmp_path, ending, content):
    path = tmp_path / f"e.{ending}"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        balanced(path, None)


OPTIONS = (
    {"columns": {"a": "chosen", "b": "rejected", "better": "x"}},
    {"columns": {"a": "chosen", "b": "rejected", "score_a": "x", "score_b": "id"}},
    {"columns": {"answers": "messages"}},
    {"columns": {"prompt": "messages.0.content", "rejected": "{x} {id}"}},
    {"columns": {"id": "id", "side": "x", "text": "chosen"}, "sides": {"1": "rejected", "2": "edited"}},
    {"format": "hh"},
    {"columns": {"system": "system"}, "replace": {"a": ""}, "first_words": 1},
)


@quick
@given(records)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options.get("columns", options)))
def test_mappings(tmp_path, options, records):
    path = tmp_path / "e.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    balanced(path, None if "sides" in options else len(records), **options)
