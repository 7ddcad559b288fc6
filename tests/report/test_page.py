"""The page of a run, as a file and in a real browser."""

import json
import math
import re
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from redline.cli import app
from redline.errors import UserError
from redline.recipe import Recipe
from redline.report.page import write_report
from redline.report.section_run import method_of
from redline.report.tokens import Tokens, render

MOST_BYTES = 3_000_000
Figures = dict[str, list[str]]


class Outline(HTMLParser):
    """Which elements a page has, and where their attributes lead."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def test_page_stands_alone(run: Path) -> None:
    page = write_report(run)
    assert page == run / "report.html"
    assert page.stat().st_size < MOST_BYTES
    outline = Outline(page.read_text(encoding="utf-8"))
    assert not outline.elements & {"script", "img", "link", "iframe", "base", "object"}
    assert not [name for name, _ in outline.attributes if name.startswith("on") or name in {"style", "src"}]
    assert all(value.startswith("#") for name, value in outline.attributes if name == "href")


def test_size_of_long_runs(run: Path) -> None:
    log = json.loads((run / "policy/log.jsonl").read_text().splitlines()[5])
    (run / "policy/log.jsonl").write_text(
        "".join(json.dumps(log | {"update": step}) + "\n" for step in range(1, 5001))
    )
    text = "word " * 4000
    offsets = [[5 * place, 5 * place + 5] for place in range(4000)]
    sample = {"prompt": text, "text": text, "offsets": offsets}
    sample |= {name: [0.1234] * 4000 for name in ("rewards", "values", "kl", "advantages")}
    (run / "policy/samples.jsonl").write_text(
        "".join(
            json.dumps({"update": update, "id": f"{update}-{index}", **sample}) + "\n"
            for update in (1, 5000)
            for index in range(8)
        )
    )
    verdict = {"prompt": text * 5, "a": text * 5, "b": text * 5, "preference": 1.0}
    (run / "compare/verdicts.jsonl").write_text(
        "".join(json.dumps({"id": str(index), **verdict}) + "\n" for index in range(200))
    )
    assert write_report(run).stat().st_size < MOST_BYTES


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_opens_from_disk(run: Path, chromium: Any, width: int, scheme: str) -> None:
    page = write_report(run)
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab, said, asked = context.new_page(), [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    assert said == []
    assert asked == [page.as_uri()]
    assert tab.title() == "made-up · Redline report"
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    text = tab.inner_text("body")
    for figure in (
        "80.0\u00a0%",
        "68.8\u00a0%",
        "5.73 ± 0.31",
        "12.1",
        "11.3",
        "0.972",
        "12 of 12 updates",
        "winrate.json",
        "policy/log.jsonl",
        "reward/metrics.json",
        "2 rejected and edited are equal",
    ):
        assert figure in text, figure
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", dark))) < 200) == (scheme == "dark")
    context.close()


def test_token_shows_its_numbers(run: Path, chromium: Any) -> None:
    page = write_report(run)
    samples = [json.loads(line) for line in (run / "policy/samples.jsonl").read_text().splitlines()]
    context = chromium.new_context()
    tab = context.new_page()
    tab.goto(page.as_uri())
    tab.evaluate("document.querySelectorAll('details.fold').forEach(fold => fold.open = true)")
    card = tab.locator("#policy .sample").last
    token, name = card.locator(".t").nth(2), card.locator(".id").inner_text()
    shown = "el => getComputedStyle(el, '::after').display + getComputedStyle(el, '::after').content"
    assert token.evaluate(shown).startswith("none")
    reward = next(sample for sample in samples if sample["id"] == name)["rewards"][2]
    token.hover()
    tip = token.evaluate(shown)
    assert tip.startswith("block")
    assert all(part in tip for part in ("reward", "value", "KL", "advantage"))
    pointed_at = re.search(r"reward (\S+)", tip)
    assert pointed_at
    card.locator("summary").focus()
    tab.keyboard.press("Enter")  # the same numbers without a mouse
    assert card.locator("thead").inner_text().split() == ["token", "reward", "value", "KL", "advantage"]
    in_table = card.locator("tbody tr").nth(2).locator("td").first.inner_text()
    for figure in (pointed_at[1], in_table):
        assert abs(float(figure.replace("−", "-")) - reward) < 0.051 * abs(reward)
    assert tab.locator("#texts .t").count() > 100  # the compared responses were scored
    levels = set(token.page.eval_on_selector_all("#policy .t", "all => all.map(t => t.className)"))
    assert {"t p4", "t n4", "t"} <= levels
    context.close()


@pytest.mark.parametrize(
    ("kept", "sections", "missing"),
    [
        (("recipe.yaml",), 0, 5),
        (("recipe.yaml", "data", "labels", "state.json"), 1, 4),
        (("recipe.yaml", "data", "labels", "reward"), 2, 3),
        (("recipe.yaml", "data", "labels", "reward", "policy"), 3, 2),
    ],
)
def test_stopped_half_way(
    run: Path, tmp_path: Path, kept: tuple[str, ...], sections: int, missing: int
) -> None:
    half = tmp_path / "half"
    half.mkdir()
    (half / "begun.json").write_text("{}")  # as a run leaves it that is under way
    for name in kept:
        (shutil.copytree if (run / name).is_dir() else shutil.copy)(run / name, half / name)
    page = write_report(half).read_text(encoding="utf-8")
    assert page.count('class="missing">Not here yet') == missing
    assert (
        sum(heading in page for heading in ("What was read", "What it is sure of", "Explained variance"))
        == sections
    )


def test_a_recipe_alone_makes_no_run(run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    shutil.copy(run / "recipe.yaml", mine)
    with pytest.raises(UserError, match="was not written by `redline run`"):
        write_report(mine)
    assert [path.name for path in mine.iterdir()] == ["recipe.yaml"]


def test_torn_last_line_of_a_run_under_way(run: Path) -> None:
    with (run / "policy/log.jsonl").open("a") as log:
        log.write('{"update": 13, "rew')
    assert "12 of 12 updates" in write_report(run).read_text(encoding="utf-8")


def test_broken_line_is_named(run: Path) -> None:
    lines = (run / "policy/log.jsonl").read_text().splitlines()
    (run / "policy/log.jsonl").write_text("\n".join([*lines[:3], "{broken", *lines[3:]]))
    with pytest.raises(UserError, match=r"policy/log.jsonl, line 4: not valid JSON"):
        write_report(run)


def test_lengths_that_differ_are_named(run: Path) -> None:
    (run / "reward/scores.jsonl").write_text(
        json.dumps(
            {
                "id": "x7",
                "set": "test",
                "side": "edited",
                "text": "a b",
                "offsets": [[0, 1], [1, 3]],
                "rewards": [0.1],
                "labels": [0, 1],
            }
        )
    )
    with pytest.raises(UserError, match=r"scores.jsonl, record x7: 2 offsets"):
        write_report(run)


def test_answers_refused_by_a_gate_have_their_reason(run: Path) -> None:
    rejects = [
        {"gate": "ratio", "why": "it changes 90% of the words"},
        {"gate": "ratio", "why": "it changes 80% of the words"},
        {"gate": "input", "why": "the rejected response is empty"},
    ]
    (run / "data/edits.rejects.jsonl").write_text(
        "".join(json.dumps({"id": "x", **line}) + "\n" for line in rejects)
    )
    page = write_report(run).read_text(encoding="utf-8")
    assert "2 more words changed than the limit allows, 1 the rejected response is empty" in page
    assert "no reason given" not in page


def test_white_space_between_tokens_is_drawn() -> None:
    text = "The capital is\n\nBerlin <b> it"
    offsets = [
        (0, 3),
        (4, 11),
        (12, 14),
        (16, 22),
        (23, 26),
        (26, 29),
    ]  # a tokenizer that trims them, and one that does not
    drawn = str(render(Tokens(text, offsets, {"reward": [0.1] * len(offsets)}), 1.0, ""))
    drawn = drawn.partition("<details")[0]
    assert unescape(re.sub(r"<[^>]*>", "", drawn)) == text.replace("\n", "↵")


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not the folder of a run .*redline run"):
        write_report(tmp_path)
    (tmp_path / "recipe.yaml").write_text("data: {edits: {path: a.jsonl}}\nsurprise: 1\n")
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"recipe.yaml: unknown key `surprise`"):
        write_report(tmp_path)


def test_command_prints_the_path(run: Path) -> None:
    found = CliRunner().invoke(app, ["report", str(run)])
    assert found.exit_code == 0
    assert found.stdout.strip() == str(run / "report.html")


def test_a_run_without_rl_says_nothing_of_ppo(run: Path) -> None:
    facts = re.compile(r"The recipe in short.*?</table>", re.DOTALL)
    page = facts.findall(write_report(run).read_text(encoding="utf-8"))[0]
    assert "Reward model" in page
    assert "aimed at 6 nats" in page
    shutil.rmtree(run / "reward")
    with (run / "recipe.yaml").open("a") as recipe:
        recipe.write("direct: {method: sft}\n")
    page = facts.findall(write_report(run).read_text(encoding="utf-8"))[0]
    assert "imitating the edits (SFT)" in page
    assert "Reward model" not in page
    assert "aimed at" not in page
    (run / "policy/log.jsonl").write_text(
        '{"update": 1, "seconds": 2.0}\n{"update": 2, "seconds": 2.0, "seconds_watch": 30.0}\n'
    )
    page = write_report(run).read_text(encoding="utf-8")
    assert (
        "<p>2 of 2 updates. <code" in page
    )  # the judge's time is not an update's, and nobody measured memory


@pytest.mark.parametrize(
    ("kind", "terms", "said"),
    [
        ("token", [{}], "PPO with a reward for every token"),
        ("token", [{"spread": "last"}, {"spread": "uniform"}], "PPO with a reward for every token"),
        ("token", [{"spread": "last"}], "PPO with a reward for every response"),
        ("sequence", [{"spread": "uniform"}], "PPO with a reward for every response"),
        ("token", [{"function": "f.py:f"}], "PPO"),
        ("token", [{"spread": "last"}, {"model": "another"}], "PPO"),
        ("token", [{}, {"model": "another"}], "PPO with a reward for every token"),
    ],
)
def test_what_the_reward_is_for(kind: str, terms: list[dict[str, str]], said: str) -> None:
    plain = {"data": {"edits": {"path": "e.jsonl"}}, "reward": {"kind": kind}, "policy": {"reward": terms}}
    assert method_of(Recipe.model_validate(plain)).startswith(f"{said}, 40 updates")


def test_figures_that_are_no_numbers(run: Path) -> None:
    result = json.loads((run / "winrate.json").read_text())
    (run / "winrate.json").write_text(json.dumps(result | {"perplexity_a": math.nan}))
    scored = [json.loads(line) for line in (run / "reward/scores.jsonl").read_text().splitlines()]
    broken = [line | {"rewards": [math.nan] * len(line["rewards"])} for line in scored]
    (run / "reward/scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in broken))
    page = write_report(run).read_text(encoding="utf-8")
    assert "degenerated" not in page  # nobody knows
    assert "nan" not in re.sub(r"<style>.*</style>", "", page, flags=re.DOTALL).lower().split()


def test_random_ones_are_the_same_in_every_report(run: Path) -> None:
    first = write_report(run).read_text(encoding="utf-8")
    assert write_report(run).read_text(encoding="utf-8") == first
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("seed: 3", "seed: 4"))
    assert write_report(run).read_text(encoding="utf-8") != first
