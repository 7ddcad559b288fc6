"""`redline rounds`: two rounds on a tiny model with a scripted editor; people in its place; the page."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from redline.errors import UserError
from redline.run.rounds import rounds_command


class Editor(BaseHTTPRequestHandler):
    """Puts "good" behind the response between << and >>."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked += 1
        text = re.search(r"<<(.*)>>", body["messages"][0]["content"], re.DOTALL)[1]
        message = {"role": "assistant", "content": f"{text.rstrip()} good"}
        sent = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_):
        pass


@pytest.fixture
def editor():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Editor)
    server.asked = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def recipe(tmp_path, tiny_model, edits_file, editor):
    prompts = [{"id": f"q{number}", "prompt": f"the film {number} was"} for number in range(6)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in prompts))
    (tmp_path / "ask.txt").write_text("{prompt}\n<<{rejected}>>")
    adapt = {"lora_rank": 2, "train_layers": 1}
    run = {
        "model": {"name": tiny_model, "dtype": "float32"},
        "data": {
            "edits": {"path": "edits.jsonl"},
            "validation_share": 0.3,
            "eval_prompts": {"path": "prompts.jsonl"},
        },
        "reward": {"adapt": adapt, "epochs": 1, "batch_size": 8, "depth": 2},
        "policy": {
            "adapt": adapt,
            "updates": 1,
            "batch_size": 4,
            "minibatch_size": 4,
            "sampling": {"max_new_tokens": 6},
        },
        "compare": {"judge": "length"},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    rounds = {
        "name": "two",
        "rounds": 2,
        "recipe": "run.yaml",
        "prompts": {"path": "prompts.jsonl"},
        "draw": {"n": 2, "limit": 4, "sampling": {"max_new_tokens": 6}},
        "edit": {
            "model": "script",
            "base_url": f"http://127.0.0.1:{editor.server_address[1]}/v1",
            "template": "ask.txt",
            "skip_gates": ["remark", "format", "ratio", "after"],
        },
    }
    (tmp_path / "rounds.yaml").write_text(yaml.safe_dump(rounds))
    return tmp_path / "rounds.yaml"


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_two_rounds(recipe, editor, tmp_path):
    out = tmp_path / "out"
    done = rounds_command(recipe, [], out)
    assert [one.round for one in done] == [1, 2]
    answers, every = lines(out / "2" / "answers.jsonl"), lines(out / "2" / "all.jsonl")
    assert [line["id"] for line in answers] == ["q0", "q1", "q2", "q3"]
    assert done[1].new == len(lines(out / "2" / "edits.jsonl")) > 0
    assert len(every) == done[1].edits == done[0].edits + done[1].new
    assert every[-1]["id"].startswith("round-2/q")
    assert every[-1]["edited"].rstrip().endswith("good")
    learned = yaml.safe_load((out / "2" / "run" / "recipe.yaml").read_text())
    assert learned["model"]["name"] == str(out / "1" / "run" / "policy")
    assert json.loads((out / "rounds.json").read_text())["rounds"][1]["over_first"] == done[1].over_first
    assert done[0].over_first == done[0].over_last
    page = (out / "report.html").read_text()
    assert "over the first model" in page
    assert "<svg" in page
    asked, made = editor.asked, (out / "2" / "all.jsonl").stat().st_mtime_ns
    assert rounds_command(recipe, [], out) == done
    assert (editor.asked, (out / "2" / "all.jsonl").stat().st_mtime_ns) == (asked, made)


def test_people_edit_between_the_rounds(recipe, tmp_path, capsys):
    out = tmp_path / "out"
    assert len(rounds_command(recipe, ["edit=people", "draw.n=1"], out)) == 1
    assert f"redline annotate {out / '2' / 'answers.jsonl'}" in capsys.readouterr().err
    with (out / "2" / "edits.jsonl").open("w") as file:
        for line in lines(out / "2" / "answers.jsonl"):
            edit = {key: line[key] for key in ("id", "prompt", "rejected")} | {"edited": "a good film"}
            file.write(json.dumps(edit) + "\n")
    done = rounds_command(recipe, ["edit=people", "draw.n=1"], out, as_json=True)
    assert [one.new for one in done][1] == 4
    assert json.loads(capsys.readouterr().out) == json.loads((out / "rounds.json").read_text())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("recipe=missing.yaml", "cannot be read"),
        ("edit={model: x}", "template: plain"),
        ("rounds=0", "greater than or equal to 1"),
        ("draws=1", "unknown key `draws`"),
    ],
)
def test_mistakes_are_said_before_anything_is_trained(recipe, tmp_path, override, message):
    with pytest.raises(UserError, match=re.escape(message)):
        rounds_command(recipe, [override], tmp_path / "out")
    assert not (tmp_path / "out" / "1").exists()
