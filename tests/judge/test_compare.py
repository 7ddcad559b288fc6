"""Comparisons from responses to winrate.json, from Python and the command line."""

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from redline.data.records import Response
from redline.errors import UserError
from redline.judge.compare import compare, compare_files, compare_many
from redline.judge.judges import FunctionJudge, load_judge
from redline.judge.winrate import PositionBias

GOOD, BAD, PLAIN = "What a lovely, wonderful place.", "What an awful, terrible place.", "It is a place."
RESULT = {
    "win_rate",
    "ci95",
    "n",
    "judge",
    "wins",
    "ties",
    "losses",
    "standard_error",
    "sign_test_p",
    "mean_length_a",
    "mean_length_b",
    "length_controlled_win_rate",
    "position_bias",
    "failures",
    "judge_settings",
}


def responses(texts: list[str], prompt: str = "prompt", first: int = 0) -> list[Response]:
    return [
        Response(id=str(number), prompt=f"{prompt} {number}", response=text)
        for number, text in enumerate(texts, first)
    ]


def save(path: Path, texts: list[str], first: int = 0) -> Path:
    path.write_text("".join(record.model_dump_json() + "\n" for record in responses(texts, first=first)))
    return path


def redline(*arguments: object, folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "redline.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_numbers_of_a_comparison():
    a, b = responses([GOOD] * 6 + [PLAIN] * 2 + [BAD] * 2), responses([BAD] * 6 + [PLAIN] * 2 + [GOOD] * 2)
    result = compare(a, b, load_judge("vader"), seed=1)
    assert result.as_json().keys() >= RESULT
    assert (result.wins, result.ties, result.losses, result.n) == (6, 2, 2, 10)
    assert result.win_rate == pytest.approx(0.7)
    assert result.ci95[0] < 0.7 < result.ci95[1]
    assert result.sign_test_p == pytest.approx(2 * (1 + 8 + 28) / 2**8)
    assert result.identical == 2
    assert result.position_bias is None  # a lexicon reads one text at a time
    assert result.mean_length_a == pytest.approx((6 * len(GOOD) + 2 * len(PLAIN) + 2 * len(BAD)) / 10)
    assert compare(a, b, load_judge("vader"), seed=1) == result
    assert compare(b, a, load_judge("vader"), seed=1).win_rate == pytest.approx(0.3)


def test_failures_and_position_bias_are_reported():
    def moody(
        prompts, a, b
    ):  # fails on prompt 0, always takes the first on prompts 1 and 2, honest otherwise
        return [
            None if prompt.endswith("0") else 1.0 if prompt[-1] in "12" else float(x > y)
            for prompt, x, y in zip(prompts, a, b, strict=True)
        ]

    result = compare(responses(["b"] * 6), responses(["a"] * 6), FunctionJudge("moody", moody))
    assert (result.n, result.wins, result.ties, result.failures.pairs) == (5, 3, 2, 1)
    assert result.failures.reasons == {"the function returned None": 2}
    assert result.position_bias == PositionBias(5, 2, 0.4, pytest.approx(0.7))


def test_a_judge_without_any_verdict_is_an_error():
    with pytest.raises(UserError, match=r"not one verdict on 2 pairs: the function returned None"):
        compare(
            responses(["a", "b"]),
            responses(["c", "d"]),
            FunctionJudge("mute", lambda prompts, a, b: [None] * len(a)),
        )


def test_a_function_and_a_name_are_judges_too():
    a, b = responses(["b"] * 3), responses(["a"] * 3)
    by_function = compare(a, b, lambda prompts, x, y: [float(p > q) for p, q in zip(x, y, strict=True)])
    assert (by_function.win_rate, by_function.n) == (1.0, 3)
    assert compare(a, b, "length").win_rate == 0.5


def test_length_control_is_refused_for_the_judge_that_measures_length():
    a, b = responses(["long answer"] * 6 + ["x"] * 2), responses(["short"] * 8)
    result = compare(a, b, "length")
    assert (result.win_rate, result.length_prior) == (0.75, None)
    assert (result.length_controlled_win_rate, result.length_effect) == (None, None)


def test_length_control_of_verdicts_that_are_length_alone_is_one_half():
    """A function that always takes the longer: at equal lengths it has no preference."""
    random = Random(3)
    a = responses(["x" * random.randint(20, 200) for _ in range(300)])
    b = responses(["y" * random.randint(5, 120) for _ in range(300)])

    def longer(prompts, first, second):
        return [
            0.5 if len(x) == len(y) else float(len(x) > len(y)) for x, y in zip(first, second, strict=True)
        ]

    result = compare(a, b, longer)
    assert result.win_rate > 0.7
    assert result.length_controlled_win_rate == pytest.approx(0.5, abs=0.1)


def test_matching_by_id():
    a, b = responses([GOOD] * 3), list(reversed(responses([BAD] * 3, first=1)))
    result = compare(a, b, load_judge("vader"))
    assert (result.n, result.unmatched) == (2, {"only_a": 1, "only_b": 1})
    with pytest.raises(UserError, match="no id in common"):
        compare(a, responses([BAD], first=9), load_judge("vader"))
    with pytest.raises(UserError, match="id `0`: its prompt is not that"):
        compare(a, responses([BAD] * 3, prompt="another"), load_judge("vader"))
    with pytest.raises(UserError, match="the id `0` comes twice"):
        compare([*a, a[0]], a, load_judge("vader"))


def test_three_systems():
    systems = {
        "good": responses([GOOD] * 12),
        "mixed": responses([GOOD, BAD] * 6),
        "plain": responses([PLAIN] * 12),
    }
    result = compare_many(systems, load_judge("vader"))
    first = result.first_over_last
    assert (first.a, first.b, first.win_rate) == ("good", "plain", 1.0)
    assert [(pair.a, pair.b, pair.win_rate) for pair in result.pairs] == [
        ("good", "mixed", 0.75),
        ("good", "plain", 1.0),
        ("mixed", "plain", 0.5),
    ]
    (difference,) = result.differences
    assert (difference.a, difference.b, difference.over) == ("good", "mixed", "plain")
    assert difference.difference == pytest.approx(0.5)
    assert difference.sign_test_p == pytest.approx(2 / 2**6)
    strengths = result.bradley_terry
    assert strengths["good"] > strengths["mixed"] > strengths["plain"]


def test_one_prompt_is_enough_and_what_it_writes_is_json():
    one = {name: responses([text]) for name, text in (("good", GOOD), ("bad", BAD), ("plain", PLAIN))}
    result = json.loads(json.dumps(compare_many(one, load_judge("vader")).as_json(), allow_nan=False))
    assert (result["n"], result["standard_error"], result["differences"][0]["standard_error"]) == (
        1,
        None,
        None,
    )
    assert 0 < result["ci95"][0] < 0.1 < result["ci95"][1] == 1


def test_all_ties():
    result = compare(responses([PLAIN] * 9), responses([PLAIN] * 9), load_judge("vader"))
    assert (result.win_rate, result.identical, result.sign_test_p) == (0.5, 9, 1)
    assert result.ci95[0] < 0.4 < 0.6 < result.ci95[1]


def test_compare_files_writes_the_result_and_every_verdict(tmp_path):
    a, b = save(tmp_path / "a.jsonl", [GOOD, BAD]), save(tmp_path / "b.jsonl", [PLAIN, PLAIN])
    result = compare_files(a, b, load_judge("vader"), tmp_path / "winrate.json", tmp_path / "cache.sqlite")
    assert json.loads((tmp_path / "winrate.json").read_text()) == json.loads(json.dumps(result.as_json()))
    rows = [json.loads(line) for line in (tmp_path / "winrate.verdicts.jsonl").read_text().splitlines()]
    assert [(row["id"], row["prompt"], row["a"], row["b"], row["preference"]) for row in rows] == [
        ("0", "prompt 0", GOOD, PLAIN, 1.0),
        ("1", "prompt 1", BAD, PLAIN, 0.0),
    ]


def test_a_file_is_not_compared_with_itself(tmp_path):
    a = save(tmp_path / "a.jsonl", [GOOD, BAD])
    with pytest.raises(UserError, match=r"a\.jsonl: a system is compared with itself"):
        compare_files(a, a, load_judge("vader"), tmp_path / "winrate.json")


def test_the_command(tmp_path):
    save(tmp_path / "a.jsonl", [GOOD] * 8)
    save(tmp_path / "b.jsonl", [BAD] * 8)
    done = redline(
        "compare", "a.jsonl", "b.jsonl", "--judge", "vader", "--out", "out/winrate.json", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "a.jsonl over b.jsonl, judged by vader: win rate 1.000 [0.631, 1.000], n = 8" in done.stdout
    assert json.loads((tmp_path / "out/winrate.json").read_text())["wins"] == 8
    assert (tmp_path / "out/verdicts.sqlite").exists()
    save(tmp_path / "c.jsonl", [PLAIN] * 8)
    done = redline("compare", "a.jsonl", "b.jsonl", "c.jsonl", "--judge", "vader", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "strength of a.jsonl" in done.stdout
    assert "a.jsonl - b.jsonl, over c.jsonl" in done.stdout


def test_models_answer_the_same_prompts_with_the_same_seed(tmp_path, monkeypatch, capsys):
    from redline.cli import app

    calls = []

    def sample_responses(model, prompts, sampling, seed):
        calls.append((model.name, [prompt.id for prompt in prompts], sampling.max_new_tokens, seed))
        text = GOOD if model.name == "one" else BAD
        return [Response(id=prompt.id, prompt=prompt.prompt, response=text) for prompt in prompts]

    monkeypatch.setattr("redline.sampling.rollouts.sample_responses", sample_responses, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text(
        "".join(f'{{"id": "{name}", "prompt": "It was {name}"}}\n' for name in "wxyz") + "{\n"
    )
    app(
        [
            "compare",
            "one",
            "two",
            "--judge",
            "vader",
            "--prompts",
            "p.jsonl",
            "--seed",
            "7",
            "--limit",
            "3",
            "--out",
            "w.json",
            "--max-new-tokens",
            "9",
        ],
        standalone_mode=False,
    )
    assert calls == [("one", ["w", "x", "y"], 9, 7), ("two", ["w", "x", "y"], 9, 7)]
    assert json.loads((tmp_path / "w.json").read_text())["win_rate"] == 1.0
    kept = [json.loads(line) for line in (tmp_path / "w.1.jsonl").read_text().splitlines()]
    assert [row["response"] for row in kept] == [GOOD] * 3
    assert "one over two" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.jsonl", "b.jsonl", "--judge", "no_module:f"], "no_module cannot be imported"),
        (["a.jsonl", "missing.jsonl", "--judge", "length"], "missing.jsonl: there is no such file or folder"),
        (["a.jsonl", "broken.jsonl", "--judge", "length"], "broken.jsonl, line 2"),
        (["a.jsonl", "half.jsonl", "--judge", "length"], "half.jsonl, line 1: no column `response`"),
        (["a.jsonl", "empty.jsonl", "--judge", "length"], "empty.jsonl: holds no responses"),
        (["a.jsonl", "a.jsonl", "--judge", "length"], "named twice"),
        (["a.jsonl", "--judge", "length"], "takes two systems"),
        (["a.jsonl", "some-model", "--judge", "length"], "some-model: is a model, so --prompts is needed"),
        (["a.jsonl", "b.jsonl", "--judge", "folder"], "not a model folder"),
        (["a.jsonl", "b.jsonl", "--judge", "m", "--base-url", "localhost:1"], "not a URL"),
        (
            ["a.jsonl", "b.jsonl", "--judge", "m", "--base-url", "http://127.0.0.1:9/v1", "--verdict", "xml"],
            "json or token",
        ),
        (["a.jsonl", "b.jsonl", "--judge", "length", "--out", "a.jsonl/winrate.json"], "a.jsonl"),
        (["a.jsonl", "b.jsonl", "--judge", "length", "--out", "folder"], "--out folder: is a folder"),
        (["a.jsonl", "b.jsonl", "--judge", "length", "--out", "."], "--out .: is a folder"),
        (["a.jsonl", "b.jsonl", "--judge", "length", "--out", "./b.jsonl"], "b.jsonl: would be written over"),
        (
            [
                "a.jsonl",
                "some-model",
                "--judge",
                "length",
                "--prompts",
                "b.jsonl",
                "--out",
                "b.json",
                "--cache",
                "b.2.jsonl",
            ],
            "b.2.jsonl: two things would be written there",
        ),
        (
            ["winrate.2.jsonl", "some-model", "--judge", "length", "--prompts", "b.jsonl"],
            "winrate.2.jsonl: would be written over",
        ),
        (["a.jsonl", "latin.jsonl", "--judge", "length"], "latin.jsonl, line 1"),
    ],
)
def test_mistakes_are_one_line_and_status_2(tmp_path, arguments, said, monkeypatch, capsys):
    from redline.cli import main

    save(tmp_path / "a.jsonl", [GOOD])
    save(tmp_path / "b.jsonl", [BAD])
    (tmp_path / "broken.jsonl").write_text('{"id": "0", "prompt": "p", "response": "r"}\n{"id": \n')
    (tmp_path / "half.jsonl").write_text('{"id": "0", "prompt": "p"}\n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "latin.jsonl").write_bytes(
        '{"id": "0", "prompt": "p", "response": "caf\u00e9"}\n'.encode("latin-1")
    )
    save(tmp_path / "winrate.2.jsonl", [GOOD])
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["redline", "compare", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert said in error
    assert error.count("\n") == 1
