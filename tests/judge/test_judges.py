"""Judges by name, both orders, the cache."""

import json
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest

from redline.errors import UserError
from redline.judge.cache import VerdictCache
from redline.judge.judges import FunctionJudge, load_judge
from redline.judge.protocol import ScoreJudge
from redline.judge.verdicts import combine, judge_pairs

PAIRS = [(f"prompt {number}", f"answer {number}", f"another answer {number}") for number in range(6)]


class Counting(FunctionJudge):
    """A function judge that remembers how often it was asked what."""

    def __init__(self, verdict, batch_size=2, concurrency=1):
        self.asked: list[tuple] = []

        def function(prompts, a, b):
            self.asked += zip(prompts, a, b, strict=True)
            return [verdict(*pair) for pair in zip(prompts, a, b, strict=True)]

        super().__init__("counting", function)
        self.batch_size, self.concurrency = batch_size, concurrency


def test_vader_prefers_the_warmer_text():
    judge = load_judge("vader")
    verdicts = judge.prefer(
        ["x"] * 3, ["A lovely day.", "Awful.", "A table."], ["Awful.", "A lovely day.", "A chair."]
    )
    assert verdicts == [1, 0, 0.5]
    assert not judge.both_orders


def test_vader_names_its_package_when_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(UserError, match=r"pip install vaderSentiment$"):
        load_judge("vader")


def test_length_prefers_the_longer_in_characters():
    message = [{"role": "assistant", "content": "four"}]
    assert load_judge("length").prefer(["x"] * 3, ["ab", "abc", message], ["a", "def", "fives"]) == [
        1,
        0.5,
        0,
    ]


def test_function_judges_from_file_and_module(tmp_path, monkeypatch):
    code = "def shorter(prompts, a, b):\n    return [float(len(x) < len(y)) for x, y in zip(a, b)]\n"
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    for name in ("mine.py:shorter", "mine:shorter"):
        judge = load_judge(name)
        assert judge.prefer(["p", "p"], ["a", "abc"], ["ab", "ab"]) == [1, 0]
        assert judge.both_orders


@pytest.mark.parametrize(
    "code",
    [
        "def judge(prompts, a, b):\n    return [1.0] * len(a)\n",
        "import torch\n@torch.inference_mode()\ndef judge(prompts, a, b):\n    return [1.0] * len(a)\n",
        "import torch\nclass Judge:\n    @torch.inference_mode()\n    def __call__(self, prompts, a, b):\n"
        "        return [1.0] * len(a)\njudge = Judge()\n",
    ],
)
def test_a_changed_function_is_another_judge(tmp_path, code):
    file = tmp_path / "mine.py"
    file.write_text(code)
    before = load_judge(f"{file}:judge").settings
    assert load_judge(f"{file}:judge").settings == before
    file.write_text(code.replace("1.0", "0.0"))
    assert load_judge(f"{file}:judge").settings != before


def test_a_partial_function_is_never_answered_from_the_cache(tmp_path):
    """Its settings differ each time: where its arguments come from is not known."""
    (tmp_path / "mine.py").write_text(
        "from functools import partial\ndef f(by, prompts, a, b):\n    return [by]\njudge = partial(f, 1.0)\n"
    )
    first, second = (load_judge(f"{tmp_path}/mine.py:judge") for _ in range(2))
    assert first.settings != second.settings


@pytest.mark.parametrize(
    "code",
    [
        "def judge(prompts, a, b):\n    raise KeyError('two\\nlines')\n",
        "def judge(prompts, a, b):\n    yield {}['two\\nlines']\n",
    ],
)
def test_a_function_judge_that_raises(tmp_path, code):
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(UserError, match=r"mine.py:judge: raised KeyError: 'two\\nlines'\.$"):
        load_judge(f"{tmp_path}/mine.py:judge").prefer(["p"], ["a"], ["b"])


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("[2.0] * len(a)", "2.0 is no preference"),
        ("[1.0]", "1 preferences for 2"),
        ("['a'] * 2", "'a' is no preference"),
        ("None", "returned NoneType"),
    ],
)
def test_what_a_function_judge_may_not_return(tmp_path, returned, message):
    (tmp_path / "mine.py").write_text(f"def judge(prompts, a, b):\n    return {returned}\n")
    with pytest.raises(UserError, match=message):
        load_judge(f"{tmp_path}/mine.py:judge").prefer(["p", "p"], ["a", "b"], ["c", "d"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:judge", "no_such_module cannot be imported"),
        ("nowhere/mine.py:judge", "no such file"),
        ("json:no_such_function", "no function `no_such_function`"),
        ("human", "human:verdicts.jsonl"),
        ("human:missing.jsonl", "missing.jsonl: cannot be read"),
        ("./no/such/folder", "no such model folder"),
    ],
)
def test_judges_that_are_not_there(name, message):
    with pytest.raises(UserError, match=message):
        load_judge(name)


def test_human_verdicts_in_either_order_and_averaged(tmp_path):
    file = tmp_path / "people.jsonl"
    rows = [
        {"id": "1", "prompt": "p", "a": "x", "b": "y", "preference": 1},
        {"id": "2", "prompt": "p", "a": "y", "b": "x", "preference": 0.5},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = load_judge(f"human:{file}")
    assert judge.prefer(["p", "p", "p"], ["x", "y", "x"], ["y", "x", "z"]) == [0.75, 0.25, None]
    assert judge.failures == {"no person judged the pair": 1}
    file.write_text('{"id": "1", "prompt": "p", "a": "x", "b": "y", "preference": 2}\n')
    with pytest.raises(UserError, match="record 1: preference 2"):
        load_judge(f"human:{file}")
    file.write_text('{"id": "1", "prompt": "p", "a": "x", "b": "y", "preference": 1}\n{"id": "2", "prompt"\n')
    with pytest.raises(UserError, match="line 2"):
        load_judge(f"human:{file}")


def test_a_score_that_is_no_number_is_a_failure_and_no_loss():
    judge = ScoreJudge("broken", lambda prompts, responses: [float(response) for response in responses])
    assert judge.prefer(["p"] * 4, ["nan", "1", "inf", "2"], ["1", "nan", "inf", "-inf"]) == [
        None,
        None,
        0.5,
        1.0,
    ]
    assert judge.failures == {"a score that is no number": 2}


def test_numbers_of_numpy_are_preferences():
    judge = FunctionJudge(
        "arrays",
        lambda prompts, a, b: np.array([len(x) > len(y) for x, y in zip(a, b, strict=True)], "float32"),
    )
    assert judge.prefer(["p", "p"], ["long", "s"], ["s", "long"]) == [1.0, 0.0]


def test_both_orders_are_asked_and_disagreement_is_a_tie():
    always_first = Counting(lambda prompt, a, b: 1.0)
    with VerdictCache(None) as cache:
        verdicts = judge_pairs(always_first, PAIRS, cache)
    assert len(always_first.asked) == 2 * len(PAIRS)
    assert set(always_first.asked) == {*PAIRS, *((prompt, b, a) for prompt, a, b in PAIRS)}
    assert all(verdict.preference == 0.5 and verdict.disagrees for verdict in verdicts)


def test_scorers_are_asked_once():
    calls = []

    def score(prompts, responses):
        calls.append(len(responses))
        return [float(len(response)) for response in responses]

    with VerdictCache(None) as cache:
        verdicts = judge_pairs(ScoreJudge("size", score), PAIRS, cache)
    assert calls == [2 * len(PAIRS)]
    assert [verdict.preference for verdict in verdicts] == [0.0] * len(PAIRS)


@pytest.mark.parametrize(
    ("first", "second", "combined"),
    [
        (1.0, 1.0, 1.0),
        (0.9, 0.6, 0.75),
        (0.9, 0.4, 0.5),
        (0.5, 0.5, 0.5),
        (0.5, 1.0, 0.5),
        (None, 1.0, None),
        (0.0, 0.2, 0.1),
    ],
)
def test_how_two_orders_combine(first, second, combined):
    assert combine(first, second) == (combined if combined is None else pytest.approx(combined))


def test_identical_responses_tie_unasked_and_repeats_are_asked_once():
    judge = Counting(lambda prompt, a, b: float(a < b))
    with VerdictCache(None) as cache:
        verdicts = judge_pairs(judge, [("p", "x", "x"), ("p", "x", "y"), ("p", "x", "y")], cache)
    assert len(judge.asked) == 2
    assert [verdict.preference for verdict in verdicts] == [0.5, 1.0, 1.0]
    assert [verdict.identical for verdict in verdicts] == [True, False, False]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_stopped_comparison_continues_and_pays_nothing_twice(tmp_path, concurrency):
    file = tmp_path / "verdicts.sqlite"
    left = [5]  # questions until the judge breaks

    def breaks(prompt, a, b):
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("power cut")
        return float(a < b)

    first = Counting(breaks, batch_size=1, concurrency=concurrency)
    with VerdictCache(file) as cache, pytest.raises(UserError, match="RuntimeError: power cut"):
        judge_pairs(first, PAIRS, cache)
    second = Counting(lambda prompt, a, b: float(a < b))
    second.settings = first.settings
    with VerdictCache(file) as cache:
        verdicts = judge_pairs(second, PAIRS, cache)
        assert len(second.asked) == 2 * len(PAIRS) - 5
        assert all(verdict.preference is not None and not verdict.disagrees for verdict in verdicts)
        third = Counting(lambda prompt, a, b: 1 / 0)
        third.settings = first.settings
        assert judge_pairs(third, PAIRS, cache) == verdicts  # all from the cache
        assert third.asked == []
        with pytest.raises(UserError, match="ZeroDivisionError"):
            judge_pairs(third, PAIRS, cache, repeat=1)  # asked again on purpose


def test_failures_are_not_cached(tmp_path):
    moody = Counting(lambda prompt, a, b: None if prompt == "prompt 3" else float(a < b))
    with VerdictCache(tmp_path / "verdicts.sqlite") as cache:
        assert judge_pairs(moody, PAIRS, cache)[3].preference is None
        assert moody.failures == {"the function returned None": 2}
        moody.asked.clear()
        judge_pairs(moody, PAIRS, cache)
    assert {prompt for prompt, *_ in moody.asked} == {"prompt 3"}


def test_other_settings_are_other_verdicts():
    judge = Counting(lambda prompt, a, b: float(a < b))
    with VerdictCache(None) as cache:
        judge_pairs(judge, PAIRS, cache)
        judge.settings = {**judge.settings, "template": "another"}
        judge_pairs(judge, PAIRS, cache)
    assert len(judge.asked) == 4 * len(PAIRS)


def test_a_file_that_is_no_cache(tmp_path: Path):
    (tmp_path / "verdicts.sqlite").write_text(
        "this is a letter, not a database, and rather long for its header " * 20
    )
    with pytest.raises(UserError, match="not a usable cache"):
        VerdictCache(tmp_path / "verdicts.sqlite")
    with sqlite3.connect(tmp_path / "other.sqlite") as other:
        other.execute("CREATE TABLE verdicts (item INTEGER, person INTEGER)")  # of some other program
    with pytest.raises(UserError, match="not a usable cache"):
        VerdictCache(tmp_path / "other.sqlite")


def test_a_cache_that_is_damaged_further_on(tmp_path: Path):
    file = tmp_path / "verdicts.sqlite"
    with VerdictCache(file) as cache:
        cache.put((f"{number}", 1.0, "judge " * 50) for number in range(200))
    whole = file.read_bytes()
    file.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with (
        VerdictCache(file) as cache,
        pytest.raises(UserError, match=r"verdicts cannot be read \(.*\)\. Choose another --cache"),
    ):
        cache.get("7")
