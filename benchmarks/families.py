"""Every decoder of the installed Transformers at a tiny size: does its reward model train, does its policy,
and are the log-probabilities those of plain Transformers? One line a family.

    python benchmarks/families.py                      # all; started again, it goes on where it stopped
    python benchmarks/families.py --again llama olmo2  # these once more
    python benchmarks/families.py --table              # the table of docs/models.md, from the results

Each family runs in a process of its own, for at most five minutes. Lines are kept in runs/families.json as
they come; results/families.json is written when all are there. All its lines are of one commit, one machine
and one set of versions: with others the script begins anew, and ``--again`` ends with a line that says so.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from common import about, filled, into_page, table
from redline.data.files import whole_file

RESULTS = Path(__file__).parent / "results" / "families.json"
PROGRESS = Path(__file__).parent.parent / "runs" / "families.json"
PAGE = Path(__file__).parent.parent / "docs" / "models.md"
SECONDS = 300
SAME = ("machine", "versions")  # what all lines of a results file have in common


def families() -> list[str]:
    """The model types for which Transformers has a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def run(family: str, results: Any) -> None:
    """One family, in a process of its own; what it prints goes into its log."""
    import tiny_families

    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        results.put(tiny_families.try_family(family, Path(folder)))


def apart(family: str) -> dict[str, Any]:
    """``run`` in a process, which may crash or hang."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=run, args=(family, results))
    process.start()
    try:
        found: dict[str, Any] = results.get(timeout=SECONDS)
    except Exception:
        found = {"family": family, "policy": "error", "policy_message": f"no result in {SECONDS} s"}
    process.join(5)
    if process.is_alive():
        process.kill()
    return found


def written(content: dict[str, Any]) -> str:
    """The table of docs/models.md, and what it sums up to."""
    lines = content["families"]
    works = [line for line in lines if line["policy"] in ("view", "whole")]
    views = [line for line in works if line["policy"] == "view"]
    rewards = [line for line in lines if line.get("reward") in ("view", "whole")]
    refused = [line for line in lines if line["policy"] == "refused"]
    off = max(max(line["sampler_off"], line["view_off"]) for line in works)
    rewards_off = max(line["reward_off"] for line in rewards)
    head = filled(
        f"{content['date']}, Transformers "
        f"{content['versions']['transformers']}, float32, {len(lines)} families: "
        f"{len(works)} train a policy ({len(views)} as a view of the upper layers, {len(works) - len(views)} "
        f"whole), {len(rewards)} a token reward model; {len(refused)} policies are refused in one line. The "
        f"largest difference of a log-probability from plain Transformers is {off:.1e} nats, that of a token "
        f"reward, which lies between -1 and 1, {rewards_off:.1e}."
    )
    rows = [
        [f"`{line['family']}`", _cell(line, "policy"), _cell(line, "reward"), _off(line), _note(line)]
        for line in lines
    ]
    names = ["family", "policy", "token rewards", "nats off", "why not"]
    return f"{head}\n{table(names, rows)}"


def _cell(line: dict[str, Any], stage: str) -> str:
    return str(line.get(stage) or line["policy"])


def _off(line: dict[str, Any]) -> str:
    """The largest difference of a log-probability from plain Transformers."""
    if "sampler_off" not in line:
        return ""
    return f"{max(line['sampler_off'], line['view_off']):.0e}"


def _note(line: dict[str, Any]) -> str:
    """Why a policy, or else a reward model, is refused, shortened."""
    said = line.get("policy_message") or line.get("reward_message") or line.get("message") or ""
    said = said.removeprefix(f"{line['family']}: ").replace("|", "/").replace("\n", " ")
    return said.partition(". Choose")[0].partition(": choose")[0][:150]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", nargs="*", default=[], metavar="FAMILY")
    parser.add_argument("--table", action="store_true")
    known = parser.parse_args()
    if known.table:
        into_page("families.py", "families", written(json.loads(RESULTS.read_text())), PAGE)
        return
    content = begun(PROGRESS, known.again)
    lines = {line["family"]: line for line in content["families"]}
    wanted = known.again or missing(content)
    import tiny_families  # noqa: F401  (imported once, before the processes part)

    for family in wanted:
        lines[family] = apart(family)
        print(json.dumps(lines[family]), flush=True)
        content["families"] = [lines[name] for name in sorted(lines)]
        write(content, PROGRESS)
    if not missing(content):
        write(content, RESULTS)


def write(content: dict[str, Any], path: Path) -> None:
    with whole_file(path) as file:
        file.write(json.dumps(content, indent=1) + "\n")


def missing(content: dict[str, Any]) -> list[str]:
    """The families without a line."""
    there = {line["family"] for line in content["families"]}
    return [family for family in families() if family not in there]


def begun(path: Path, again: list[str]) -> dict[str, Any]:
    """The results that a file has so far, where they are of this commit, machine and versions; else none."""
    content = {**about("families.py"), "date": str(date.today()), "families": []}
    with contextlib.suppress(FileNotFoundError):
        before = json.loads(path.read_text())
        if all(before[name] == content[name] for name in SAME):
            return dict(before)
        if again:
            raise SystemExit(
                f"{path}: its lines are of commit {before['versions']['redline']} and of other sources, "
                "versions or another machine. Run all families, without --again."
            )
    return content


if __name__ == "__main__":
    main()
