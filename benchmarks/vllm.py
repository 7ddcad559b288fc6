"""PPO with a vLLM server that draws the responses, beside PPO that draws them itself.

    make vllm
    python benchmarks/vllm.py [--server .venv-vllm/bin/python] [--updates 6]

The quickstart with few updates, once with each sampler, one after the other on the same machine: seconds of
sampling and of a whole update, the drift between the two arithmetics, and the win rate. The server runs on
loopback with the embedded model, in bfloat16 where the processor computes in it. Results go to
benchmarks/results/vllm.json.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from common import about
from redline.embedded import embedded_model_folder
from redline.engine.models import dtype_of
from redline.engine.settings import Model
from redline.run.run import run_recipe

HERE = Path(__file__).parent
RECIPE = HERE.parent / "recipes" / "quickstart.yaml"
STARTING = 900  # seconds that a server may take to start


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def server(python: Path, log: Path) -> Iterator[str]:
    """The address of a server of the embedded model, ready to answer."""
    port = free_port()
    dtype = str(dtype_of(Model())).removeprefix("torch.")
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(embedded_model_folder()), "--served-model-name", "base", "--dtype", dtype]
    command += ["--host", "127.0.0.1", "--port", str(port), "--enable-lora", "--max-lora-rank", "16"]
    command += ["--max-loras", "2", "--max-model-len", "512", "--max-num-seqs", "32", "--enforce-eager"]
    command += ["--logprobs-mode", "processed_logprobs"]
    environment = os.environ | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_CPU_KVCACHE_SPACE": "1"}
    environment |= {"HF_HUB_OFFLINE": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(url, process, log)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + STARTING
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(1)
    raise SystemExit(f"the server did not start; its log ends with:\n{log.read_text()[-2000:]}")


def measure(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """The quickstart's figures with some overrides."""
    run_recipe(RECIPE, overrides, folder)
    lines = [json.loads(line) for line in (folder / "policy" / "log.jsonl").read_text().splitlines()]
    later = lines[1:]  # the first update pays for what is made once
    winrate = json.loads((folder / "winrate.json").read_text())
    figures: dict[str, Any] = {
        name: round(statistics.median(line[name] for line in later), 3)
        for name in ("seconds", "seconds_sample")
    }
    drifts = [line["sampler_drift"] for line in lines]
    figures["sampler_drift"] = [round(drift, 4) for drift in drifts if drift is not None]
    figures["kl"] = lines[-1]["kl"]
    return figures | {name: winrate[name] for name in ("win_rate", "ci95", "n")}


def main() -> None:
    cli = argparse.ArgumentParser()
    cli.add_argument("--server", type=Path, default=HERE.parent / ".venv-vllm" / "bin" / "python")
    cli.add_argument("--updates", type=int, default=6)
    cli.add_argument("--out", type=Path, default=HERE.parent / "runs" / "vllm")
    arguments = cli.parse_args()
    few = [f"policy.updates={arguments.updates}", "watch.every=0"]
    in_process = measure(arguments.out / "in-process", few)
    with (
        tempfile.TemporaryDirectory() as adapters,
        server(arguments.server, arguments.out / "server.log") as url,
    ):
        sampler = json.dumps({"kind": "vllm", "url": url, "adapter_dir": adapters})
        served = measure(arguments.out / "served", [*few, f"policy.sampler={sampler}"])
    result = {
        "what": "the quickstart, few updates",
        "in this process": in_process,
        "vLLM": served,
        **about("vllm.py"),
    }
    (HERE / "results" / "vllm.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
