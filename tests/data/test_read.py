"""Reading: every format from a real file, every mapping, and what happens to records that cannot be used."""

import gzip
import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from redline.data.check import Rejects
from redline.data.files import check_apart, line_of, whole_file, write_jsonl
from redline.data.read import read
from redline.data.records import Edit, Pair, Prompt, Response, as_text
from redline.data.settings import Source
from redline.errors import UserError

EDITS = [
    {"id": str(k), "prompt": f"prompt {k}", "rejected": f"bad {k}", "edited": f"gut, “good” {k}", "rating": k}
    for k in range(5)
]


def write(path: Path, records) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def load(path, kind=Edit, rejects=None, **source):
    with rejects or Rejects() as used:
        return list(read(Source(path=str(path), **source), kind, used))


def make(folder: Path, name: str) -> Path:
    """The same five edits in each format."""
    import csv

    from datasets import Dataset, DatasetDict

    path = folder / name
    if name == "saved":
        Dataset.from_list(EDITS).save_to_disk(path)
    elif name == "splits":
        DatasetDict({"train": Dataset.from_list(EDITS), "test": Dataset.from_list(EDITS[:1])}).save_to_disk(
            path
        )
    elif name.endswith(".parquet"):
        Dataset.from_list(EDITS).to_parquet(path)
    elif name.endswith(".json"):
        path.write_text(json.dumps(EDITS, indent=1), encoding="utf-8")
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(write(folder / "plain.jsonl", EDITS).read_bytes()))
    elif name.endswith(".jsonl"):
        write(path, EDITS)
    else:
        with path.open("w", encoding="utf-8", newline="") as out:
            table = csv.DictWriter(out, list(EDITS[0]), delimiter="\t" if name.endswith(".tsv") else ",")
            table.writeheader()
            table.writerows(EDITS)
    return path


@pytest.mark.parametrize(
    "name", ["e.jsonl", "e.jsonl.gz", "e.json", "e.csv", "e.tsv", "e.parquet", "saved", "splits"]
)
def test_every_format_gives_the_same_records(tmp_path, name):
    records = load(make(tmp_path, name))
    for record, edit in zip(records, EDITS, strict=True):
        assert record.model_dump(exclude_unset=True) | {"rating": 0} == edit | {"rating": 0}
    assert [int(record.model_extra["rating"]) for record in records] == [0, 1, 2, 3, 4]


def test_json_lines_under_the_name_json_and_a_list_that_is_cut_off(tmp_path):
    assert len(load(write(tmp_path / "lines.json", EDITS))) == 5
    (tmp_path / "cut.json").write_text(json.dumps(EDITS)[:200])
    with pytest.raises(UserError, match=r"cut.json: not valid JSON after element 1"):
        load(tmp_path / "cut.json")


def test_a_split_and_a_limit(tmp_path):
    path = make(tmp_path, "splits")
    assert len(load(path, split="test")) == 1
    assert len(load(path, limit=3)) == 3
    with pytest.raises(UserError, match="no split `dev`"):
        load(path, split="dev")


def test_columns_templates_and_unknown_keys(tmp_path):
    row = {"article": "Long.", "candidate": "a", "feedback": {"summary": "b", "why": "c"}, "n": 7}
    path = write(tmp_path / "d.jsonl", [row])
    (record,) = load(
        path,
        columns={"prompt": "{article}\n\nSummary:", "rejected": "candidate", "edited": "feedback.summary"},
    )
    assert record.model_dump(exclude_unset=True) == {
        "id": "d-1",
        "prompt": "Long.\n\nSummary:",
        "rejected": "a",
        "edited": "b",
        "feedback": row["feedback"],
        "n": 7,
    }


def test_two_rows_a_record(tmp_path):
    table = (
        "Sentiment\tText\tbatch_id\nNegative\tbad<br />film\t4\nPositive\tgood<br "
        "/>film\t4\nPositive\tfine\t5\n"
        "Negative\tpoor\t5\nNegative\talone\t6\nMixed\tx\t7\n"
    )
    (tmp_path / "cad.tsv").write_text(table)
    rejects = Rejects()
    records = load(
        tmp_path / "cad.tsv",
        rejects=rejects,
        columns={"id": "batch_id", "side": "Sentiment", "text": "Text"},
        sides={"Negative": "rejected", "Positive": "edited"},
        replace={"<br />": " "},
    )
    assert [(r.id, r.prompt, r.rejected, r.edited) for r in records] == [
        ("4", "", "bad film", "good film"),
        ("5", "", "poor", "fine"),
    ]
    assert rejects.counts == {"only one side": 1, "side `Mixed` is not one of Negative, Positive": 1}
    with pytest.raises(UserError, match=r"no column `batch`\. There are: Sentiment, Text, batch_id"):
        load(
            tmp_path / "cad.tsv",
            columns={"id": "batch", "side": "Sentiment", "text": "Text"},
            sides={"Negative": "rejected"},
        )
    with pytest.raises(UserError, match="`sides` needs `columns` for id, side and text; add side"):
        load(tmp_path / "cad.tsv", columns={"id": "batch_id", "text": "Text"}, sides={"Negative": "rejected"})


def test_openings_of_prompts(tmp_path):
    path = write(
        tmp_path / "p.jsonl",
        [{"prompt": " One two\nthree four five"}, {"prompt": "six"}, {"prompt": "One two\nthree nine"}],
    )
    rejects = Rejects()
    assert [r.prompt for r in load(path, Prompt, rejects, first_words=3)] == ["One two\nthree", "six"]
    assert rejects.counts == {"same content as an earlier record": 1}


HUMAN = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why?"


def test_hh_transcripts(tmp_path):
    path = write(
        tmp_path / "hh.jsonl",
        [
            {
                "chosen": HUMAN + "\n\nAssistant: Because.",
                "rejected": HUMAN + "\n\nAssistant: No.\n\nNot now.",
            },
            {"chosen": HUMAN + "\n\nAssistant: A", "rejected": "\n\nHuman: Other\n\nAssistant: B"},
            {"chosen": HUMAN, "rejected": HUMAN},
            {"chosen": "no turns", "rejected": HUMAN + "\n\nAssistant: B"},
        ],
    )
    rejects = Rejects()
    (pair,) = load(path, Pair, rejects, format="hh")
    assert pair.prompt == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Why?"},
    ]
    assert [as_text(side) for side in (pair.chosen, pair.rejected)] == ["Because.", "No.\n\nNot now."]
    assert rejects.counts["prompts do not match"] == 1
    assert rejects.total == 3
    assert [r.prompt[-1]["content"] for r in load(path, Prompt, format="hh")] == ["Why?"]


def test_conversations_and_their_implicit_prompt(tmp_path):
    ask = {"role": "user", "content": "Hi?"}
    yes, no = ({"role": "assistant", "content": said} for said in ("Yes.", "No."))
    path = write(
        tmp_path / "c.jsonl",
        [
            {"prompt": [ask], "chosen": [yes], "rejected": [no]},
            {"chosen": [ask, no], "rejected": [ask, yes]},
            {"chosen": [yes], "rejected": [no]},
            {"prompt": [ask], "chosen": [{"role": "assistant"}], "rejected": [no]},
            {"prompt": "Hi?", "chosen": [yes], "rejected": [no]},
        ],
    )
    rejects = Rejects()
    one, other, alone = load(path, Pair, rejects)
    assert (one.prompt, one.chosen, one.rejected) == ([ask], [yes], [no])
    assert (other.prompt, other.chosen, other.rejected) == ([ask], [no], [yes])
    assert (alone.prompt, alone.chosen, alone.rejected) == ("", "Yes.", "No.")
    assert rejects.counts == {
        "chosen.0 is no message with `role` and `content`": 1,
        "same content as an earlier record": 1,  # a prompt that is text before an answer that is messages
    }


def test_bad_records_are_set_aside_counted_and_written_down(tmp_path):
    good = {"id": "a", "prompt": "p", "rejected": "x", "edited": "y"}
    lines = [
        json.dumps(good),
        json.dumps(good)[:-1],
        "[1]",
        json.dumps(good | {"edited": "z"}),
        json.dumps(good | {"id": "b"}),
        json.dumps(good | {"id": "c", "edited": " "}),
        json.dumps(good | {"id": "d", "edited": "x"}),
        "",
        json.dumps(good | {"id": "e", "edited": 3}),
        json.dumps({"id": "f", "rejected": "x"}),
        json.dumps(good | {"id": "g", "edited": "last"}),
    ]
    path = tmp_path / "e.jsonl"
    path.write_bytes("\n".join(lines).encode() + b'\n{"id": "\xff"}\n')
    with Rejects.beside(tmp_path / "labels.jsonl") as rejects:
        kept = list(read(Source(path=str(path)), Edit, rejects))
    assert [record.id for record in kept] == ["a", "g"]
    written = [json.loads(line) for line in (tmp_path / "labels.rejects.jsonl").read_text().splitlines()]
    assert [(line["line"], line["reason"].partition(" (")[0]) for line in written] == [
        (2, "not valid JSON"),
        (3, "not a JSON object with named fields"),
        (4, "same id as an earlier record"),
        (5, "same content as an earlier record"),
        (6, "edited is empty"),
        (7, "rejected and edited are equal"),
        (9, "edited is neither text nor a list of messages"),
        (10, "no column `edited`"),
        (12, "not UTF-8 text"),
    ]
    assert {line["file"] for line in written} == {str(path)}
    assert written[2]["record"]["edited"] == "z"
    assert rejects.summary().startswith("2 records, 9 left out (1 not valid JSON, 1 not a JSON object")
    assert len(kept) + rejects.total == 11
    Rejects.beside(tmp_path / "labels.jsonl").close()
    assert not (tmp_path / "labels.rejects.jsonl").exists()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": %s}' % (b"1" * 5000), "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b'{"id": "\xe9"}', "not UTF-8 text"),
    ],
)
def test_a_line_that_cannot_be_parsed_does_not_hide_the_others(tmp_path, line, reason):
    (tmp_path / "e.jsonl").write_bytes(line + b"\n" + json.dumps(EDITS[0]).encode())
    with Rejects(tmp_path / "rejects.jsonl") as rejects:
        assert [record.id for record in load(tmp_path / "e.jsonl", rejects=rejects)] == ["0"]
    assert rejects.counts == {reason: 1}


def test_messages_with_other_values_than_text(tmp_path):
    """A Parquet file keeps a date as a date, which is written out as text; records that differ only in it
    differ."""
    from datasets import Dataset

    ask = {"role": "user", "content": "Hi?", "at": datetime(2024, 2, 3)}
    rows = [EDITS[0] | {"id": str(day), "prompt": [ask | {"at": datetime(2024, 2, day)}]} for day in (3, 4)]
    Dataset.from_list([*rows, rows[0] | {"id": "again"}]).to_parquet(tmp_path / "e.parquet")
    rejects = Rejects()
    kept = load(tmp_path / "e.parquet", rejects=rejects)
    assert [json.loads(line_of(record))["prompt"][0]["at"] for record in kept] == [
        "2024-02-03T00:00:00",
        "2024-02-04T00:00:00",
    ]
    assert rejects.counts == {"same content as an earlier record": 1}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("note", "half \ud83d"),
        ("note", b"\xff"),
        ("image", object()),
        ("prompt", [{"role": "user", "content": "half \ud83d"}]),
    ],
)
def test_what_no_line_can_hold_costs_the_record_only_where_it_is_its_text(tmp_path, monkeypatch, name, value):
    from redline.data import read as module
    from redline.data.rows import Row

    rows = [Row("e", 1, EDITS[0] | {name: value}), Row("e", 2, EDITS[1])]
    monkeypatch.setattr(module, "rows", lambda source, note: iter(rows))
    with Rejects(tmp_path / "rejects.jsonl") as rejects:
        kept = load("e", rejects=rejects)
    if name == "prompt":
        assert write_jsonl(tmp_path / "out.jsonl", kept) == 1
        assert rejects.counts == {"prompt: cannot be written as JSON": 1}
        assert len((tmp_path / "rejects.jsonl").read_text().splitlines()) == 1
    else:
        assert write_jsonl(tmp_path / "out.jsonl", kept) == 2
        assert rejects.notes == {f"the column `{name}` is dropped: it cannot be written as JSON": 1}


def test_an_id_made_of_the_line_is_no_id_that_another_record_has(tmp_path):
    rejects = Rejects()
    path = write(
        tmp_path / "p.jsonl", [{"id": "p-2", "prompt": "one"}, {"prompt": "two"}, {"prompt": "three"}]
    )
    assert [record.id for record in load(path, Prompt, rejects)] == ["p-2", "p-2-2", "p-3"]
    assert not rejects.total


def test_whose_fault_it_is_that_a_file_cannot_be_written(tmp_path):
    def elsewhere():
        yield {"id": "a"}
        raise ConnectionResetError("the other end went away")

    with pytest.raises(ConnectionResetError):
        write_jsonl(tmp_path / "out.jsonl", elsewhere())
    (tmp_path / "folder").mkdir()
    write(tmp_path / "e.jsonl", EDITS)
    for name in ("folder", "e.jsonl/x"):
        with pytest.raises(UserError, match=f"{name}: cannot be written"), whole_file(tmp_path / name) as out:
            out.write("text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.jsonl", "folder"]


@pytest.mark.parametrize("kept", ['{"id": "a", "gate": "ratio", "reason": "r"}\n', "notes\n", "[1]\n", "3\n"])
def test_rejects_replace_no_file_of_another_kind(tmp_path, kept):
    (tmp_path / "out.rejects.jsonl").write_text(kept)
    with pytest.raises(
        UserError, match=r"out\.rejects\.jsonl: .* over a file that is no list of such records"
    ):
        Rejects.beside(tmp_path / "out.jsonl")
    assert (tmp_path / "out.rejects.jsonl").read_text() == kept


def test_rejects_that_are_read_again_are_not_replaced(tmp_path):
    left_out = write(
        tmp_path / "out.rejects.jsonl", [{"reason": "r", "file": "f", "line": 1, "record": EDITS[0]}]
    )
    before = left_out.read_text()
    source = Source(
        path=str(left_out),
        columns={"prompt": "record.prompt", "rejected": "record.rejected", "edited": "record.edited"},
    )
    with (
        pytest.raises(UserError, match="would be written over, but is read here"),
        Rejects(left_out) as rejects,
    ):
        list(read(source, Edit, rejects))
    assert left_out.read_text() == before
    assert len(list(read(source, Edit, Rejects()))) == 1


def test_a_file_is_not_written_over_what_is_read(tmp_path):
    one, other = write(tmp_path / "one.jsonl", EDITS), tmp_path / "other.jsonl"
    check_apart([other, tmp_path / "new.jsonl"], [one, tmp_path / "none.jsonl"])
    other.symlink_to(one)
    with pytest.raises(UserError, match=r"other\.jsonl: would be written over"):
        check_apart([other], [one])


def test_links_and_devices_stay_what_they_are(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.jsonl").symlink_to("folder/target.jsonl")
    for _ in range(2):  # the target is not there, then it is
        assert write_jsonl(tmp_path / "link.jsonl", EDITS) == len(EDITS)
    assert (tmp_path / "link.jsonl").is_symlink()
    assert len((tmp_path / "folder/target.jsonl").read_text().splitlines()) == len(EDITS)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_jsonl(pipe, [{"id": "a"}])
    assert os.read(reader, 100) == b'{"id": "a"}\n'
    os.close(reader)
    assert pipe.is_fifo()
    assert Rejects.beside(pipe).path is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link.jsonl", "pipe"]


def test_broken_rows_of_tables(tmp_path):
    (tmp_path / "t.csv").write_text('prompt,rejected,edited\np,a,b\np,c\np,"d,e\np,f,"g"h"\np,i,j\n')
    rejects = Rejects()
    assert [r.edited for r in load(tmp_path / "t.csv", rejects=rejects)] == ["b", "j"]
    assert rejects.total == 3  # line 4 would swallow line 5, which is broken in its own way
    (tmp_path / "q.tsv").write_text('prompt\trejected\tedited\np\ta\t"b\np\tc\t"\np\tk\tl\n')
    assert [r.edited for r in load(tmp_path / "q.tsv")] == ['"b', '"', "l"]
    rejects = Rejects()
    assert [r.edited for r in load(tmp_path / "q.tsv", rejects=rejects, quoting="standard")] == ["l"]
    assert rejects.counts == {"a quotation mark that is not closed or not doubled": 2}


def test_refuse_and_keep_unchanged(tmp_path):
    path = write(tmp_path / "e.jsonl", [*EDITS, EDITS[0] | {"id": "same", "edited": "bad 0"}])
    rejects = Rejects()
    kept = list(
        read(
            Source(path=str(path)),
            Edit,
            rejects,
            keep_unchanged=True,
            refuse=lambda edit: "odd" if edit.id in "13" else None,
        )
    )
    assert [record.id for record in kept] == ["0", "2", "4", "same"]
    assert rejects.counts == {"odd": 2}


def test_responses_may_be_empty(tmp_path):
    (record,) = load(write(tmp_path / "r.jsonl", [{"prompt": "p", "response": ""}]), Response)
    assert record.response == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "none.jsonl: there is no such file or folder"),
        ("x.docx", "x", "files of this kind are not read. Known: .jsonl .ndjson .json"),
        (
            "x.jsonl",
            '{"id": "1", "bad": "x", "good": "y"}\n',
            "no column `rejected`. There are: id, bad, good. Map yours",
        ),
        ("x.csv", "", "x.csv: is empty. The first line must name the columns"),
        ("x.json", '"text"', "x.json: holds no list of objects"),
        ("x.parquet", "no", "x.parquet: not a readable Parquet file"),
        ("x.jsonl.gz", "no", "x.jsonl.gz: cannot be read"),
        ("x.jsonl.gz", gzip.compress(b"{}" * 99, mtime=0)[:10] + b"\xff" * 40, "x.jsonl.gz: cannot be read"),
        ("x.json", '[{"prompt": "é"}]'.encode("latin-1"), "x.json: not valid JSON after element 0"),
        ("x.json", "[" * 200_000, "x.json: not valid JSON after element 0"),
        (
            "x.csv",
            '"prompt,rejected,edited\na,b,c\n',
            "x.csv, head line: a quotation mark that is not closed",
        ),
        (
            "x.csv",
            "prompt,rejected,edited,prénom\na,b,c,d\n".encode("latin-1"),
            "x.csv, head line: not UTF-8 text",
        ),
    ],
)
def test_mistakes_have_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        load(tmp_path / name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_data_set_and_a_name_nobody_knows(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="is a folder, but no saved data set"):
        load(tmp_path)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(UserError, match="not a readable saved data set"):
        load(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code = (
        "from redline.data.rows import rows; from redline.data.settings import Source\n"
        "from redline.errors import UserError\n"
        "try: list(rows(Source(path='nobody/nothing')))\nexcept UserError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.startswith("nobody/nothing: is not on this machine, and the Hugging Face Hub cannot be")


def test_a_big_file_is_streamed(tmp_path):
    """150 MB of edits: the memory that reading adds stays far below the file's size."""
    path = tmp_path / "big.jsonl"
    filler = "so it goes " * 700
    with path.open("w") as out:
        for k in range(10_000):
            out.write(
                json.dumps(
                    {"id": str(k), "prompt": "", "rejected": f"{k} {filler}", "edited": f"{filler} {k}"}
                )
                + "\n"
            )
    code = (
        "import resource, sys; from redline.data.check import Rejects; from redline.data.read import read\n"
        "from redline.data.records import Edit; from redline.data.settings import Source\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); count = sum(1 for _ in read(Source(path=sys.argv[1]), Edit, Rejects()))\n"
        "print(count, (peak() - before) // 1024)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    count, added = map(int, run.stdout.split())
    assert path.stat().st_size > 150e6
    assert count == 10_000
    assert added < 30  # MiB
