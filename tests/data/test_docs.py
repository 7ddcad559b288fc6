"""What the pages on data say is so: each line of the table reads its file, the commands of the guide run."""

import csv
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from redline.data.check import Rejects
from redline.data.read import read
from redline.data.records import Edit, Feedback, Pair, Prompt, as_text
from redline.data.settings import Source

DOCS = Path(__file__).resolve().parents[2] / "docs"
KINDS = {"edits": Edit, "pairs": Pair, "prompts": Prompt, "feedback": Feedback}
Q, BAD, GOOD = "Which planet is the largest?", "It is Saturn.", "It is Jupiter."
EDIT = {"prompt": Q, "rejected": BAD, "edited": GOOD}
PAIR = {"prompt": Q, "rejected": BAD, "chosen": GOOD}
ASK = {"role": "user", "content": Q}


def say(text):
    return {"role": "assistant", "content": text}


def gpt(text):
    return {"from": "gpt", "value": text}


def lines(*rows):
    return lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def whole(value, indent=None):
    return lambda path: path.write_text(json.dumps(value, indent=indent), encoding="utf-8")


def table(head, *rows, delimiter=",", encoding="utf-8"):
    def write(path):
        with path.open("w", encoding=encoding, newline="") as out:
            csv.writer(out, delimiter=delimiter).writerows([head, *rows])

    return write


def workbook(path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.create_sheet("Edits")
    for row in (list(EDIT), list(EDIT.values())):
        sheet.append(row)
    book.save(path)


def zstandard(path):
    import pyarrow

    with pyarrow.output_stream(str(path), compression="zstd") as out:
        out.write((json.dumps(EDIT) + "\n").encode())


def parquet(path):
    from datasets import Dataset

    path.parent.mkdir(exist_ok=True)
    Dataset.from_list([EDIT]).to_parquet(path)


def shards(path):
    parquet(path / "train-00000-of-00001.parquet")
    (path / "test-00000.jsonl").write_text(json.dumps(EDIT | {"edited": "x"}) + "\n")
    (path / "README.md").write_text("about")


def saved(path):
    from datasets import Dataset, DatasetDict

    DatasetDict({"train": Dataset.from_list([EDIT])}).save_to_disk(path)


def parts(path):
    path.parent.mkdir()
    lines(EDIT)(path.parent / "1.jsonl")


def two(path):
    lines(EDIT)(path.parent / "one.jsonl")
    table(["prompt", "rejected", "edited"], ["Q2", "a", "b"])(path.parent / "two.csv")


HH = f"\n\nHuman: {Q}\n\nAssistant: "
RESULT = {"from_name": "correction", "type": "textarea", "value": {"text": [GOOD]}}
TASK = {
    "id": 1,
    "data": {"prompt": Q, "response": BAD},
    "annotations": [{"completed_by": 2, "result": [RESULT]}],
}
ARGILLA = {"id": "r", "fields": {"prompt": Q, "answer": BAD}}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
FILES = {  # the first column of the table -> what writes such a file
    "edits as JSON Lines: `prompt`, `rejected`, `edited`": lines(EDIT),
    "pairs as JSON Lines: `prompt`, `chosen`, `rejected`": lines(PAIR),
    "prompts, one a line": lines({"prompt": Q}),
    "a JSON list, on one line or printed over many": whole([EDIT], 2),
    "printed JSON under the name `.jsonl`": whole(EDIT, 2),
    "a JSON object with the list under `data`": whole({"version": 1, "data": [EDIT]}),
    "a table with other column names": table(["prompt", "before", "after"], [Q, BAD, GOOD]),
    "a prompt that is made of several columns": table(["article", "candidate", "edited"], [Q, BAD, GOOD]),
    "a table with semicolons, as Excel writes it in Europe": table(list(EDIT), [Q, BAD, GOOD], delimiter=";"),
    "a table with another separator and an old encoding": table(
        list(EDIT), [Q, BAD + " é", GOOD + " é"], delimiter="~", encoding="cp1252"
    ),
    "a TSV whose quotation marks are text (MLQE-PE's direct assessments)": lambda path: path.write_text(
        f'prompt\ttranslation\tpe\n{Q}\t"{BAD}\t"{GOOD}\n'
    ),
    'Excel\'s "Unicode text": tabs in UTF-16': table(
        list(EDIT), [Q, BAD, GOOD], delimiter="\t", encoding="utf-16"
    ),
    "a sheet of a workbook": workbook,
    "a packed file: `.gz`, `.zst`, `.bz2`, `.xz`": zstandard,
    "Parquet": parquet,
    "a folder of shards, several splits in it": shards,
    "files that a pattern fits": parts,
    "several files, of any kinds": two,
    "a folder that `save_to_disk` wrote": saved,
    "HH-RLHF's transcripts": lines({"chosen": HH + GOOD, "rejected": HH + BAD}),
    "UltraFeedback: `prompt` as text, sides as conversations": lines(
        {"prompt": Q, "chosen": [ASK, say(GOOD)], "rejected": [ASK, say(BAD)]}
    ),
    "TRL's pairs without a prompt: two conversations": lines(
        {"chosen": [ASK, say(GOOD)], "rejected": [ASK, say(BAD)]}
    ),
    "TRL's unpaired answers: `completion`, `label`": lines({"prompt": Q, "completion": BAD, "label": False}),
    "a good and a bad answer in two rows (KTO)": lines(
        {"prompt": Q, "completion": BAD, "label": False}, {"prompt": Q, "completion": GOOD, "label": True}
    ),
    "CAD: the two sides as rows of one id": table(
        ["Sentiment", "Text", "batch_id"], ["Positive", GOOD, "4"], ["Negative", BAD, "4"], delimiter="\t"
    ),
    "ShareGPT, as LLaMA-Factory ranks it": whole(
        [{"conversations": [{"from": "human", "value": Q}], "chosen": gpt(GOOD), "rejected": gpt(BAD)}], 1
    ),
    "Alpaca's columns, as LLaMA-Factory ranks them": whole(
        [{"instruction": Q, "input": "", "chosen": GOOD, "rejected": BAD, "history": [["Hi", "Hello"]]}]
    ),
    "axolotl's `chat_template`: `messages`, a message a side": lines(
        {"messages": [ASK], "chosen": say(GOOD), "rejected": say(BAD)}
    ),
    "a column with the system prompt (orca_dpo_pairs)": lines(
        {"system": "Be brief.", "question": Q, "chosen": GOOD, "rejected": BAD}
    ),
    "OpenAI's preference format": lines(
        {
            "input": {"messages": [ASK], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [say(GOOD)],
            "non_preferred_output": [say(BAD)],
        }
    ),
    "chats whose last turn is the answer, as prompts": lines({"messages": [ASK, say(GOOD)]}),
    "chats and the answer that was worse than theirs": lines(
        {"messages": [ASK, say(GOOD)], "rejected_response": BAD}
    ),
    "a number of the better answer (PKU-SafeRLHF)": lines(
        {"prompt": Q, "response_0": BAD, "response_1": GOOD, "better_response_id": 1}
    ),
    "a winner by name, ties among them (Chatbot Arena)": lines(
        {"winner": "model_b", "conversation_a": [ASK, say(BAD)], "conversation_b": [ASK, say(GOOD)]},
        {"winner": "tie (bothbad)", "conversation_a": [ASK, say("x")], "conversation_b": [ASK, say("y")]},
    ),
    "a winner by a code of one's own": table(
        ["prompt", "one", "two", "verdict"], [Q, BAD, GOOD, "2"], ["R", "x", "y", "0"]
    ),
    "a score for each of two answers": table(
        ["prompt", "one", "two", "s1", "s2"], [Q, BAD, GOOD, "1.5", "7"]
    ),
    "a list of answers with ranks": lines(
        {
            "prompt": Q,
            "answers": [
                {"text": "No idea, really.", "rank": 2},
                {"text": GOOD, "rank": 1},
                {"text": BAD, "rank": 3},
            ],
        }
    ),
    "a list of answers with scores (UltraFeedback's own)": lines(
        {
            "instruction": Q,
            "completions": [{"response": BAD, "overall_score": 2}, {"response": GOOD, "overall_score": 9.5}],
        }
    ),
    "Label Studio's JSON": whole([TASK, {**TASK, "id": 2, "annotations": []}]),
    "values that lie deep in lists and objects": whole([TASK]),
    "Argilla's records": whole(
        [ARGILLA | {"responses": {"correction": [{"value": GOOD, "user_id": "u", "status": "submitted"}]}}]
    ),
    "Argilla's records, flat: the first submitted answer of each": lines(
        EDIT | {"edit.responses": ["draft", GOOD], "edit.responses.status": ["draft", "submitted"]}
    ),
    "Prodigy's accepted tasks with a text field": lines(
        {"prompt": Q, "text": BAD, "user_input": GOOD, "answer": "accept"},
        {"prompt": Q, "text": "x", "user_input": "y", "answer": "ignore"},
    ),
    "doccano, sequence to sequence": lines({"id": 5, "prompt": Q, "text": BAD, "label": [GOOD]}),
    "messages as JSON in a table's cell": table(
        list(EDIT), [json.dumps([ASK]), json.dumps([say(BAD)]), str([say(GOOD)])]
    ),
    "content as a list of parts": lines(
        {
            "prompt": [{"role": "user", "content": [{"type": "text", "text": Q}]}],
            "rejected": BAD,
            "edited": GOOD,
        }
    ),
    "tool calls and the list of tools": lines(
        {"prompt": [ASK, CALL, {"role": "tool", "content": "4"}], "tools": [{"type": "function"}]}
        | {"rejected": BAD, "edited": GOOD}
    ),
}


def table_lines():
    text = (DOCS / "data.md").read_text(encoding="utf-8")
    body = text.partition("| I have | write | as |")[2].partition("\n\n")[0]
    rows = [re.split(r" \| ", line.strip("| ")) for line in body.splitlines() if line.startswith("| ")]
    return {have: (yaml.safe_load(write.strip("`")), kind) for have, write, kind in rows}


LINES = table_lines()


def test_every_line_has_a_file():
    assert set(LINES) == set(FILES)


@pytest.mark.parametrize("have", LINES)
def test_a_line_of_the_table(tmp_path, have):
    given, kind = LINES[have]
    paths = given["path"] if isinstance(given["path"], list) else [given["path"]]
    FILES[have](tmp_path / paths[0])
    given["path"] = [str(tmp_path / path) for path in paths]
    rejects = Rejects()
    records = list(read(Source.model_validate(given), KINDS[kind], rejects))
    assert len(records) == (2 if have.startswith("several files") else 1), rejects.summary()
    record = records[0]
    if have.startswith("CAD"):
        assert record.prompt == ""
    else:
        prompt = record.prompt if isinstance(record.prompt, str) else as_text(record.prompt)
        assert Q in prompt
    assert not hasattr(record, "rejected") or BAD in as_text(record.rejected)
    for better in ("chosen", "edited"):
        if getattr(record, better, None) is not None:
            assert GOOD in as_text(getattr(record, better))
    if isinstance(record.prompt, list):
        assert record.prompt[-1]["role"] in ("user", "tool")


def log_rows():
    for k in range(60):
        draft = f"Item {k} costs {k} euros and is sad and red."
        sent = draft.replace("sad", "happy")
        yield [f"What does item {k} cost?", draft, sent, f"agent{k % 3}", f"2026-03-01T10:{k:02}"]
        yield [f"And item {k}?", draft + " Yes.", draft + " Yes.", "agent0", f"2026-03-02T10:{k:02}"]


def test_the_guide_from_a_log_to_a_model(tmp_path, monkeypatch, redline, tiny_model):
    pytest.importorskip("vaderSentiment")
    text = (DOCS / "from-your-users-corrections.md").read_text(encoding="utf-8")
    head = ["question", "suggestion", "final", "agent", "sent_at"]
    table(head, *log_rows())(tmp_path / "log.csv")
    monkeypatch.chdir(tmp_path)
    recipe = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1]
    Path("corrections.yaml").write_text(recipe)
    small = [f"model.name={tiny_model}", "reward.depth=2", "reward.adapt.train_layers=1", "reward.epochs=1"]
    small += [
        "policy.adapt.train_layers=1",
        "policy.updates=1",
        "policy.batch_size=2",
        "policy.minibatch_size=2",
    ]
    small += ["policy.sampling.max_new_tokens=4", "compare.limit=2", "watch.every=0"]
    blocks = re.findall(r"<!-- command -->\n```bash\n(.*?)```", text, re.DOTALL)
    commands = [line for block in blocks for line in block.replace("\\\n", "").splitlines()]
    assert [shlex.split(command)[1] for command in commands] == ["import-log", "show", "edits", "run"]
    for command in commands:
        _, *arguments = shlex.split(command)
        more = small if arguments[0] == "run" else []
        status, out, err = redline(*arguments, *more)
        assert status == 0, err
        if arguments[0] == "import-log":
            assert "60 corrections kept" in out
            assert "60 dropped: sent as it was" in out
    assert Path("runs/corrections/policy/config.json").exists()
    assert Path("runs/corrections/report.html").exists()
