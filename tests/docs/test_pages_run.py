"""All code of README and docs/ runs, page by page and from top to bottom, on a tiny model in the place of the
embedded one. What cannot run at this size is named in ``only_parsed``, with the reason; test_code.py checks
its options. docs/python.md has a test of its own, which reads what it prints."""

import json
import re
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from pages import PAGES, ROOT, Block, Call, blocks, calls, calls_with_output, heredocs

from redline.data.tokenization import load_tokenizer
from tiny_models import CONFIGS, model_folder

TINY = [
    "reward.epochs=1",
    "policy.updates=1",
    "policy.batch_size=4",
    "policy.minibatch_size=2",
    "policy.sampling.max_new_tokens=6",
    "watch.every=0",
]
SUBJECTS = ["film", "book", "play", "user", "actors", "system"]


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def yaml_of(page: str) -> list[str]:
    return [block.text for block in blocks(ROOT / page) if block.language == "yaml"]


def write_data(folder: Path) -> None:
    """The files that the pages name, as a reader would have them."""
    names = [f"the {subject} {number} was" for number in range(10) for subject in SUBJECTS]
    records = [
        {"id": str(n), "prompt": name, "rejected": " bad and the film", "edited": " good and the film"}
        for n, name in enumerate(names)
    ]
    lines(folder / "edits.jsonl", records)
    write_guide(folder)
    (folder / "edits.csv").write_text("id,prompt,before,after\n1,the film,was bad,was good\n")
    (folder / "my_judge.py").write_text((ROOT / "examples/seams/my_judge.py").read_text())
    for name in ("prompts", "held-out"):
        lines(folder / f"{name}.jsonl", [{"id": row["id"], "prompt": row["prompt"]} for row in records[:4]])
    lines(
        folder / "pairs.jsonl",
        [{**row, "chosen": row["edited"]} for row in records[:4]],
    )
    for place, name in enumerate(("policy", "reference", "responses", "a", "b")):
        answers = [{**row, "response": f" good{'!' * place}"} for row in records]
        lines(folder / f"{name}.jsonl", answers)
    people = [
        {
            "id": row["id"],
            "prompt": row["prompt"],
            "a": " good",
            "b": " good!",
            "preference": float(int(row["id"]) % 2),
        }
        for row in records
    ]
    lines(folder / "verdicts.jsonl", people)
    judged = [
        {"instruction": f"i{n}", "output_1": "x" * n, "output_2": "yyy", "preference": n % 3}
        for n in range(9)
    ]
    (folder / "annotations.json").write_text(json.dumps(judged))
    log = "question,suggestion,final,user,time\n"
    for row in records:
        name = row["prompt"]
        log += f"Where {name}?,{name} in the red room,{name} in the blue room,ada,2026-01-01T10:00:00\n"
    (folder / "log.csv").write_text(log)


def write_guide(folder: Path) -> None:
    """The pairs of docs/from-preference-data-to-edits.md, and what its model and its people make of them."""
    (written,) = heredocs(ROOT / "docs/from-preference-data-to-edits.md").items()
    (folder / written[0]).write_text(written[1], encoding="utf-8")
    pairs = [json.loads(line) for line in written[1].splitlines()]
    edited = {
        "paris": "The capital of France is Paris.",
        "rome": "The capital of Italy is Rome.",
        "ocean": "The largest ocean is the Pacific.",
        "tokyo": "The capital of Japan is Tokyo.",
        "planet": "The planet we live on is Mars.",
    }
    wrong = {"Berlin": "Paris", "Madrid": "Rome", "Atlantic": "Pacific", "eight": "seven", "green": "blue"}
    wrong |= {"Osaka": "Tokyo", "five": "four", "Mars": "Earth"}
    human = []
    for pair in pairs:
        text = pair["rejected"]
        for old, new in wrong.items():
            text = text.replace(old, new)
        human.append({**pair, "edited": text})
    lines(folder / "human-edits.jsonl", human)
    machine = [{**pair, "edited": edited[pair["id"]]} for pair in pairs if pair["id"] in edited]
    lines(folder / "machine-edits.jsonl", machine)


def write_recipes(folder: Path) -> None:
    """README's recipe, and those of the pages."""
    readme = yaml_of("README.md")[0]
    for name in ("my-recipe.yaml", "recipe.yaml"):
        (folder / name).write_text(readme, encoding="utf-8")
    (folder / "corrections.yaml").write_text(yaml_of("docs/from-your-users-corrections.md")[0])
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    experiment = yaml_of("docs/experiment.md")[0]
    (folder / "recipes/mine.yaml").write_text(experiment.replace("my_judge.py:prefer", "my_judge.py:calmer"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder in which README's own recipe was run at tiny size, as runs/demo and runs/mine."""
    from redline.run.run import run_file

    folder = tmp_path_factory.mktemp("pages")
    config = type(CONFIGS["llama"])(**CONFIGS["llama"].to_dict() | {"num_hidden_layers": 30})
    model_folder(folder / "cache/smollm2-135m", config)
    place = folder / "place"
    place.mkdir()
    write_data(place)
    write_recipes(place)
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REDLINE_CACHE", str(folder / "cache"))
        patch.chdir(place)
        run_file(Path("my-recipe.yaml"), TINY, Path("runs/demo"))
    assert Path.cwd() == before
    shutil.copytree(place / "runs/demo", place / "runs/mine")
    return place


@pytest.fixture
def place(finished, tmp_path, monkeypatch) -> Path:
    """A copy of it, for one page."""
    shutil.copytree(finished, tmp_path / "here")
    monkeypatch.setenv("REDLINE_CACHE", str(finished.parent / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "none that works")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def only_parsed(arguments: list[str]) -> str | None:
    """Why a command is not run here; None for one that is."""
    name = arguments[0]
    reasons = {
        "annotate": "serves until Ctrl-C: tests/annotate",
        "export": "needs what people did in a browser: tests/annotate",
        "serve-reward": "serves until Ctrl-C: tests/integrations/test_server.py",
        "experiment": "many runs: tests/experiment; its recipe is checked",
    }
    if "recipes/alpacafarm-7b.yaml" in arguments:
        return "its model's configuration is on the Hub"
    if "testset-v1.json" in arguments:
        return "a public file: tests/judge/test_check.py"
    if name == "push" and "--upload" in arguments:
        return "uploads: tests/integrations/test_hub.py"
    return reasons.get(name)


def at_tiny_size(arguments: list[str], with_output: bool) -> list[str]:
    """The command as it can be run here: a small run, an LLM's edits dry, a length judge for an LLM. Where
    the page shows what a run prints, the page's own changes of the recipe stay."""
    name = arguments[0]
    if name == "run" and with_output:
        return [*arguments[:2], *TINY, *arguments[2:]]
    if name in ("run", "train"):
        return [*arguments, *TINY]
    if name == "check" and "--dry-run" in arguments:
        return [*arguments, *TINY]
    if name == "edit" and "--dry-run" not in arguments:
        return [*arguments, "--dry-run"]
    if name == "extrapolate":
        return [*arguments, "--max-new-tokens", "4"]
    if "--base-url" in arguments and name in ("compare", "judge-check"):
        kept = list(arguments)
        for option in ("--base-url", "--verdict"):
            if option in kept:
                del kept[kept.index(option) : kept.index(option) + 2]
        kept[kept.index("--judge") + 1] = "length"
        return kept
    return arguments


class Answers(types.ModuleType):
    """httpx with a reward server behind it."""

    def __init__(self) -> None:
        from starlette.testclient import TestClient

        from redline import TokenReward
        from redline.integrations.server import reward_app

        super().__init__("httpx")
        self._client = TestClient(
            reward_app(TokenReward.from_pretrained("runs/demo/reward"), "TOKEN"),
            base_url="http://127.0.0.1:8100",
        )

    def post(self, url: str, **options: Any) -> Any:
        with self._client as client:
            answer = client.post(url, **options)
        answer.raise_for_status()
        return answer


class GRPOTrainer:
    """TRL's trainer, in name: tests/integrations/test_trl.py trains with the real one."""

    def __init__(self, **options: Any) -> None:
        (reward,) = options["reward_funcs"]
        assert len(reward(prompts=["the film was"], completions=[" good"], completion_ids=[[5, 6]])) == 1


def names_of(page: str) -> dict[str, Any]:
    """What a page's Python takes for given."""
    if page == "models.md":
        return {"folder": "runs/demo/reward", "text": "the film was good"}
    if page == "integrations.md":
        return {
            "token": "TOKEN",
            "tokenizer": load_tokenizer("smollm2-135m"),
            "GRPOTrainer": GRPOTrainer,
            "model": "smollm2-135m",
            "dataset": None,
        }
    return {}


def code_of(page: Path) -> list[Block]:
    """The blocks of a page that can be run."""
    return [block for block in blocks(page) if block.language == "python" or calls(block)]


# docs/python.md has a test of its own
WITH_CODE = [page for page in PAGES if page.name != "python.md" and code_of(page)]


@pytest.mark.parametrize("page", WITH_CODE, ids=[page.name for page in WITH_CODE])
def test_the_code_of_a_page(page: Path, place: Path, redline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    code = code_of(page)
    names = names_of(page.name)
    if page.name == "integrations.md":
        monkeypatch.setitem(sys.modules, "httpx", Answers())
    if page.name == "experiment.md":  # its runs are tests/experiment's: here it sums up that there are none
        monkeypatch.setattr("redline.experiment.command.run_cells", lambda *_: [])
    for block in code:
        run_block(block, page, names, redline)


def shrunk(text: str) -> str:
    """A block of Python whose training takes a second here."""
    return text.replace("kl=Kl(target=6)", "kl=Kl(target=6), updates=1, batch_size=4, minibatch_size=2")


def run_block(block: Block, page: Path, names: dict[str, Any], redline: Any) -> None:
    if block.language == "python":
        try:
            exec(compile(shrunk(block.text), page.name, "exec"), names)
        except Exception as error:
            raise AssertionError(f"{page.name}: {error}\n{block.text}") from error
        return
    for call in calls_with_output(block):
        arguments = call.arguments
        if only_parsed(arguments) is None:
            status, out, err = redline(*at_tiny_size(arguments, bool(call.shown)))
            title = f"{page.name}: redline {' '.join(arguments)}"
            wrong_on_purpose = "compare.judge=vadr" in arguments
            assert status == (1 if wrong_on_purpose else 0), f"{title}\n{out}\n{err}"
            if not differs(call):
                like = exactly if arguments[0] in SAME_EVERYWHERE else masked
                printed = [like(line) for line in f"{out}\n{err}".splitlines()]
                missing = [line for line in call.shown if like(line) not in printed]
                assert not missing, f"{title} does not print {missing}, but\n{out}\n{err}"


def differs(call: Call) -> bool:
    """Whether what a page shows is another model's or another tokenizer's: neither is here."""
    return call.arguments[0] == "edit" or "human-labels.jsonl" in call.arguments


# commands whose figures no model has a part in
SAME_EVERYWHERE = ("edits", "show", "import-log", "export", "agreement")


def exactly(line: str) -> str:
    """A line of output, whatever the width of its columns."""
    return " ".join(line.split())


def masked(line: str) -> str:
    """A line of output without its figures, and without the bars that are drawn for them."""
    return re.sub(r"█+|[▉▊▋▌▍▎▏]", "█", re.sub(r"\d[\d,.]*\d|\d", "#", " ".join(line.split()))).rstrip("█ ")
