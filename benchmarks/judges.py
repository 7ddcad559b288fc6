"""Published win rates and human agreement, computed by Redline, beside the published figures; and what cheap
judges reach.

    python benchmarks/judges.py ../shared/data      (or REDLINE_DATA)

Reads AlpacaEval's verdicts on two models and PandaLM's human verdicts; writes benchmarks/results/judges.json.
"""

import csv
import json
import os
import sys
from pathlib import Path

from redline.data.check import Rejects
from redline.data.files import write_json
from redline.judge.agreement import cohen_kappa
from redline.judge.check import check_judge
from redline.judge.judges import load_judge
from redline.judge.length import length_controlled_win_rate
from redline.judge.people import read_human_verdicts
from redline.judge.statistics import sign_test, standard_error, win_rate, win_rate_interval

CODES = {0: 0.5, 1.5: 0.5, 1: 0.0, 2: 1.0}  # of the files: 1 = the reference, 2 = the model


def alpaca_eval(folder: Path, name: str) -> dict[str, object]:
    """One model's win rate over text-davinci-003, ours beside the leaderboard's, in percent."""
    with (folder / "alpaca_eval_gpt4_leaderboard.csv").open() as table:
        published = next(row for row in csv.DictReader(table) if row[""] == name)
    verdicts = json.loads((folder / name / "annotations.json").read_text())
    preferences = [CODES[verdict["preference"]] for verdict in verdicts]
    lengths = [len(verdict["output_2"]) for verdict in verdicts]
    baseline_lengths = [len(verdict["output_1"]) for verdict in verdicts]
    controlled = length_controlled_win_rate(preferences, lengths, baseline_lengths)
    without_prior = length_controlled_win_rate(preferences, lengths, baseline_lengths, anchor=None)
    low, high = win_rate_interval(preferences)
    return {
        "n": len(preferences),
        "win_rate": 100 * win_rate(preferences),
        "published_win_rate": float(published["win_rate"]),
        "standard_error": 100 * standard_error(preferences),
        "published_standard_error": float(published["standard_error"]),
        "ci95": [100 * low, 100 * high],
        "sign_test_p": sign_test(preferences.count(1.0), preferences.count(0.0)),
        "length_controlled": 100 * controlled.win_rate,
        "length_controlled_without_prior": 100 * without_prior.win_rate,
        "published_length_controlled": float(published["length_controlled_winrate"]),
    }


def pandalm(path: Path) -> dict[str, object]:
    """The three people with each other, and two cheap judges with their majority."""
    pairs = read_human_verdicts(path, Rejects())
    people = list(zip(*(pair.people for pair in pairs), strict=True))
    kappas = {f"{i + 1} and {j + 1}": cohen_kappa(people[i], people[j]) for i, j in ((0, 1), (0, 2), (1, 2))}
    judges = {name: check_judge(pairs, load_judge(name)).as_json() for name in ("length", "vader")}
    published = {"1 and 2": 0.85, "1 and 3": 0.88, "2 and 3": 0.86}
    return {
        "n": len(pairs),
        "cohen_kappa": kappas,
        "published_cohen_kappa": published,
        "people": judges["length"]["people"],
        "judges": {
            name: {key: found[key] for key in ("with_people", "length_bias")}
            for name, found in judges.items()
        },
    }


if __name__ == "__main__":
    data = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["REDLINE_DATA"])
    figures = {
        name: alpaca_eval(data / "alpaca_eval", name) for name in ("alpaca-farm-ppo-human", "alpaca-7b")
    }
    result = {"alpaca_eval": figures, "pandalm": pandalm(data / "pandalm" / "testset-v1.json")}
    write_json(Path(__file__).parent / "results" / "judges.json", result)
    print(json.dumps(result, indent=2))
