"""A vLLM server of the embedded model on loopback, for benchmarks and for the tests that talk to a real one.

`make vllm` makes its environment: .venv-vllm. REDLINE_VLLM_PYTHON names the Python of another one.
"""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from redline.embedded import embedded_model_folder
from redline.engine.models import dtype_of
from redline.engine.settings import Model

HERE = Path(__file__).parent
STARTING = 900  # seconds that a server may take to start
STOPPING = 60  # seconds that it may take to end
OPTIONS = [
    *("--served-model-name", "base", "--host", "127.0.0.1", "--enable-lora", "--max-lora-rank", "16"),
    *("--max-loras", "2", "--max-model-len", "512", "--max-num-seqs", "32", "--enforce-eager"),
    *("--logprobs-mode", "processed_logprobs"),
]
VARIABLES = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
}


def server_python() -> Path:
    """The Python of the server's environment; it may not be there."""
    named = os.environ.get("REDLINE_VLLM_PYTHON")
    return Path(named) if named else HERE.parent / ".venv-vllm" / "bin" / "python"


def server_versions(python: Path) -> dict[str, str]:
    """The versions that a result depends on, in the server's environment."""
    command = [str(python), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    versions = {package["name"]: package["version"] for package in json.loads(listed.stdout)}
    return {name: versions[name] for name in ("vllm", "vllm-cpu", "torch") if name in versions}


def server_command(dtype: str = "bfloat16") -> str:
    """The server's command line as a result file shows it."""
    variables = [f"{name}={value}" for name, value in VARIABLES.items()]
    module = ["python", "-m", "vllm.entrypoints.openai.api_server"]
    return " ".join([*variables, *module, "--model", "MODEL", "--port", "PORT", "--dtype", dtype, *OPTIONS])


@dataclass
class VllmProcess:
    """A server process that can be ended and started again at the same address."""

    python: Path
    log: Path
    dtype: str
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server, without waiting for it."""
        command = [str(self.python), "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(embedded_model_folder()), "--port", str(self.port), "--dtype", self.dtype]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with self.log.open("a") as out:
            self.process = subprocess.Popen(
                [*command, *OPTIONS],
                env=environment | VARIABLES,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Return when the server answers. Raises SystemExit with the end of its log when it does not."""
        end = time.monotonic() + STARTING
        while time.monotonic() < end and self.process is not None and self.process.poll() is None:
            if self._is_healthy():
                return
            time.sleep(1)
        raise SystemExit(f"the server did not start; its log ends with:\n{self.log.read_text()[-2000:]}")

    def _is_healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        """End the server and the processes that it started at once, as a machine that fails does."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(STOPPING)
        self.process = None

    def stop(self) -> None:
        """End the server and wait until it has ended."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOPPING)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None


def own_dtype() -> str:
    """What this machine computes models in by default."""
    return str(dtype_of(Model())).removeprefix("torch.")


@contextmanager
def vllm_server(python: Path, log: Path, dtype: str | None = None) -> Iterator[VllmProcess]:
    """A server that is ready to answer; it is ended at the end."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    server = VllmProcess(python, log, dtype or own_dtype(), port)
    server.start()
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()
