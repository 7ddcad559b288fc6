"""Checking a judge against people."""

import json
import re
import sys

import pytest

from redline.data.check import Rejects
from redline.errors import UserError
from redline.judge.agreement import cohen_kappa, kappa_interval
from redline.judge.check import CheckFailures, check_judge
from redline.judge.judges import FunctionJudge, load_judge
from redline.judge.people import Columns, read_human_verdicts
from redline.judge.show import print_check


def test_pandalm_is_read_whole_and_without_options(data_dir):
    pairs = read_human_verdicts(data_dir / "pandalm" / "testset-v1.json", Rejects())
    assert len(pairs) == 999
    assert pairs[0].people == (0.0, 0.0, 0.0)  # 2, 2, 2 in the file: the second response
    assert pairs[0].prompt.startswith("The sentence you are given")
    assert "\n\nIf you have any questions" in pairs[0].prompt
    result = check_judge(pairs, load_judge("length"), again=10)
    people = result.people
    assert people.cohen_kappa == pytest.approx((0.85 + 0.88 + 0.86) / 3, abs=0.005)  # published pair by pair
    assert result.length_bias.judge.value == 1.0
    assert result.with_people.agreement.value == pytest.approx(result.length_bias.yardstick.value)
    assert 0.5 < result.with_people.agreement.value < people.pairwise_agreement


def test_another_format_by_mapping(data_dir):
    path = data_dir / "alpaca_eval" / "alpaca-7b" / "annotations.json"
    pairs = read_human_verdicts(
        path,
        Rejects(),
        Columns("instruction", "output_1", "output_2", "preference"),
        {"1": "a", "2": "b", "0": "tie"},
    )
    verdicts = [pair.people[0] for pair in pairs]
    assert [verdicts.count(verdict) for verdict in (1.0, 0.0, 0.5)] == [584, 205, 16]


def test_own_verdicts_csv_and_broken_records(tmp_path):
    own = tmp_path / "own.jsonl"
    own.write_text(
        '{"id": "1", "prompt": "p", "a": "x", "b": "y", "preference": 0.8}\n'
        '{"id": "2", "prompt": "p", "a": "x", "b": ["y"], "preference": 1}\n{"id": \n'
        '{"id": "4", "prompt": "p", "a": "x", "preference": 0.5}\n'
    )
    with Rejects.beside(own) as rejects:
        pairs = read_human_verdicts(own, rejects)
    assert [pair.people for pair in pairs] == [(1.0,)]
    lines = [json.loads(line) for line in (tmp_path / "own.rejects.jsonl").read_text().splitlines()]
    assert [line["line"] for line in lines] == [2, 3, 4]
    assert [line["reason"].split(" ")[0] for line in lines] == ["b:", "not", "b:"]
    table = tmp_path / "table.csv"
    table.write_text("question,one,two,ann,bob\nq,x,y,a,\nq,x,y,tie,b\nq,x,y,,\n")
    pairs = read_human_verdicts(table, Rejects(), Columns("question", "one", "two", "ann,bob"))
    assert [pair.people for pair in pairs] == [(1.0, None), (0.5, 0.0)]


def test_several_peoples_verdicts_of_an_own_export(tmp_path):
    def row(**votes):
        verdicts = [{"person": person, "preference": vote, "left": "a"} for person, vote in votes.items()]
        mean = sum(votes.values()) / len(votes)
        return {"id": str(votes), "prompt": "p", "a": "x", "b": "y", "preference": mean, "verdicts": verdicts}

    rows = [
        row(ben=0.0, ada=1.0),
        row(ada=0.0),
        row(cyd=0.5, ada=1.0, ben=1.0),
        {**row(ada=1.0), "verdicts": ["x"]},
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = read_human_verdicts(tmp_path / "own.jsonl", Rejects())
    assert [pair.people for pair in pairs[:3]] == [
        (None, 1.0, 0.0, None),
        (None, 0.0, None, None),
        (None, 1.0, 1.0, 0.5),
    ]
    assert pairs[3].people == (1.0, None, None, None)  # whose it is, the record does not say
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:1]))
    result = check_judge(
        read_human_verdicts(tmp_path / "own.jsonl", Rejects()), load_judge("length"), again=0
    )
    assert (result.people.pairwise_agreement, result.with_people.no_majority) == (0.0, 1)
    columns = Columns(people="preference", prompt="prompt")
    assert read_human_verdicts(tmp_path / "own.jsonl", Rejects(), columns)[0].people == (1.0, 0.0)


def test_a_list_is_a_response_only_if_it_holds_messages(tmp_path):
    rows = [
        {"prompt": "p", "a": said, "b": "y", "preference": 1}
        for said in (["x"], [{"role": "assistant", "content": "x"}])
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rejects = Rejects()
    pairs = read_human_verdicts(tmp_path / "own.jsonl", rejects)
    assert rejects.counts == {"a: neither text nor messages": 1}
    assert check_judge(pairs, load_judge("length")).n == 1


def test_a_code_is_the_same_with_and_without_its_decimals(tmp_path):
    (tmp_path / "v.csv").write_text(
        "prompt,a,b,preference\np,x,y,1.0\np,x,y,2\np,x,y,00\np,x,y,\np,x,y,3.0\n"
    )
    rejects = Rejects()
    pairs = read_human_verdicts(tmp_path / "v.csv", rejects, values={"1": "a", "2": "b", "0": "tie"})
    assert [pair.people for pair in pairs] == [(1.0,), (0.0,), (0.5,)]
    assert rejects.counts == {"preference: no verdict": 1, "preference: `3.0` is no verdict known here": 1}


def test_the_figures_of_a_known_judge(tmp_path):
    rows = [
        {"prompt": f"p{n}", "a": "long answer", "b": "short", "x": x, "y": y, "z": z}
        for n, (x, y, z) in enumerate([("a", "a", "a"), ("a", "a", "b"), ("b", "b", "b"), ("a", "b", "tie")])
    ]
    (tmp_path / "v.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = read_human_verdicts(tmp_path / "v.jsonl", Rejects(), Columns(people="x,y,z"))
    asked: list[str] = []

    def judge(
        prompts, a, b
    ):  # p0: always the first shown; otherwise the longer; p2 changes its mind when asked again
        asked.extend(prompts)
        return [
            1.0
            if prompt == "p0"
            else float(len(x) > len(y))
            if not (prompt == "p2" and asked.count("p2") > 2)
            else 0.5
            for prompt, x, y in zip(prompts, a, b, strict=True)
        ]

    result = check_judge(pairs, FunctionJudge("known", judge))
    assert result.position_bias.disagreements == 1
    assert result.with_people.n == 3  # the fourth pair has no majority
    assert result.with_people.agreement.value == pytest.approx(1 / 3)  # p0 became a tie, p1 right, p2 wrong
    assert result.with_people.agreement_decided.value == pytest.approx(1 / 2)
    bias = result.length_bias
    assert (bias.judge.value, bias.people.value) == (1.0, pytest.approx(2 / 3))
    assert (bias.yardstick.value, bias.shorter.value) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert (result.self_consistency.pairs, result.self_consistency.share.value) == (4, 3 / 4)
    assert result.failures == CheckFailures(0, 0, {})
    low, high = result.with_people.agreement.ci95
    assert 0 <= low < 1 / 3 < high <= 1
    assert result.people.pairwise_agreement == pytest.approx((2 / 4 + 2 / 4 + 2 / 4) / 3, abs=0.2)


def test_what_fails_only_when_asked_again_is_counted(tmp_path):
    (tmp_path / "v.jsonl").write_text(
        "".join(f'{{"prompt": "p{n}", "a": "x", "b": "y", "preference": 1}}\n' for n in range(3))
    )
    asked: list[str] = []

    def tired(prompts, a, b):
        asked.extend(prompts)
        return [None if len(asked) > 6 and prompt == "p1" else 1.0 for prompt in prompts]

    result = check_judge(read_human_verdicts(tmp_path / "v.jsonl", Rejects()), FunctionJudge("tired", tired))
    assert result.failures == CheckFailures(0, 1, {"the function returned None": 2})
    assert result.self_consistency.pairs == 2


def test_the_command_prints_one_table(tmp_path, monkeypatch, capsys):
    from redline.cli import app

    (tmp_path / "v.csv").write_text(
        "q,x,y,who\nq,longer,short,1\nq,long,longer,2\nq,same,size,0\nq,oh,well,7\n"
    )
    monkeypatch.chdir(tmp_path)
    app(
        [
            "judge-check",
            "v.csv",
            "--judge",
            "length",
            "--columns",
            "prompt=q",
            "--columns",
            "a=x",
            "--columns",
            "b=y",
            "--columns",
            "people=who",
            "--values",
            "1=a",
            "--values",
            "2=b",
            "--values",
            "0=tie",
            "--out",
            "check.json",
        ],
        standalone_mode=False,
    )
    printed = capsys.readouterr().out
    assert "judge length on 3 pairs" in printed
    assert re.search(r"1\.000 +\[0\.292, 1\.000\] +3 pairs with majority and", printed)
    result = json.loads((tmp_path / "check.json").read_text())
    assert (result["left_out"], result["with_people"]["agreement"]) == (1, 1.0)
    assert (tmp_path / "verdicts.sqlite").exists()  # a check that is stopped goes on


def test_a_name_in_brackets_is_printed_as_it_is(tmp_path, capsys):
    (tmp_path / "v.jsonl").write_text('{"prompt": "p", "a": "x", "b": "y", "preference": 1}\n')
    pairs = read_human_verdicts(tmp_path / "v.jsonl", Rejects())
    print_check(
        check_judge(
            pairs, FunctionJudge("[x]/[/bold].py:f", lambda prompts, a, b: [float(x == "x") for x in a])
        )
    )
    assert "judge [x]/[/bold].py:f on 1 pairs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--columns", "promt=q"], "`promt` is none of"),
        (["--columns", "prompt"], "write it as key=value"),
        (["--values", "1=first"], "`first` is no verdict"),
        ([], "no usable record"),
        (["--out", "v.csv"], "v.csv: would be written over"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, capsys, arguments, said):
    from redline.cli import main

    (tmp_path / "v.csv").write_text("q,x,y,who\nq,longer,short,1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["redline", "judge-check", "v.csv", "--judge", "length", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert said in capsys.readouterr().err


def test_codes_that_no_rule_explains_are_refused_and_not_guessed(tmp_path):
    """Read as preferences, only the rows with a 1 would be left: all of them for the first response."""
    rows = [{"prompt": "p", "a": "x", "b": "y", "preference": code} for code in (1, 2, 1, 2, 2)]
    (tmp_path / "v.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"preference is `2`.* 3 of 5 records .*--values 1=a --values 2=b"):
        read_human_verdicts(tmp_path / "v.jsonl", Rejects())
    assert len(read_human_verdicts(tmp_path / "v.jsonl", Rejects(), values={"1": "a", "2": "b"})) == 5


def test_accuracy_in_each_order_and_by_a_column(tmp_path):
    """A judge that takes whatever is shown first: right in one order, wrong in the other, a tie in both."""
    rows = [
        {"prompt": f"p{n}", "a": f"a{n}", "b": f"b{n}", "preference": 1, "topic": "odd" if n % 2 else "even"}
        for n in range(6)
    ]
    (tmp_path / "v.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = read_human_verdicts(tmp_path / "v.jsonl", Rejects(), by="topic")
    result = check_judge(pairs, lambda prompts, a, b: [1.0] * len(a))
    orders = result.orders
    assert (orders.n, orders.shown_first.value, orders.shown_second.value) == (6, 1.0, 0.0)
    assert (orders.mean, orders.both.value) == (0.5, 0.0)
    assert {group: part.n for group, part in result.by.items()} == {"even": 3, "odd": 3}
    half = check_judge(
        pairs, lambda prompts, a, b: [float(x < y or x == "a1") for x, y in zip(a, b, strict=True)]
    )
    assert half.by["even"].agreement.value == 1.0
    assert half.as_json()["by"]["odd"]["agreement_ci95"][1] <= 1.0
    with pytest.raises(UserError, match="colour: missing"):
        read_human_verdicts(tmp_path / "v.jsonl", Rejects(), by="colour")


def test_a_kappa_has_an_interval_that_holds_it():
    first = [1.0, 0.0, 0.5, 1.0, 1.0, 0.0, 0.0, 1.0] * 10
    second = [1.0, 0.0, 0.5, 0.0, 1.0, 0.0, 1.0, 1.0] * 10
    low, high = kappa_interval(first, second)
    assert low < cohen_kappa(first, second) < high
    assert 0.2 < high - low < 0.4  # 80 items
    assert kappa_interval([1.0] * 5, [1.0] * 5) == (1.0, 1.0)


def test_a_mute_judge_is_an_error(tmp_path):
    (tmp_path / "v.jsonl").write_text('{"prompt": "p", "a": "x", "b": "y", "preference": 1}\n')
    pairs = read_human_verdicts(tmp_path / "v.jsonl", Rejects())
    with pytest.raises(UserError, match="not one verdict on 1 pairs"):
        check_judge(pairs, FunctionJudge("mute", lambda prompts, a, b: [None] * len(a)))
