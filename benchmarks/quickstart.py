"""The README's figures of `make demo`: runs the quickstart (or takes the finished run), and writes
benchmarks/results/quickstart_DTYPE.json, where DTYPE is what this machine computes in.

    python benchmarks/quickstart.py
"""

import json
import subprocess
import sys
from pathlib import Path

from common import about
from redline.engine.models import dtype_of
from redline.engine.settings import Model
from reviews_cad import figures

HERE = Path(__file__).parent


def main() -> None:
    out = HERE.parent / "runs" / "demo"
    command = [sys.executable, "-m", "redline.cli", "run", "recipes/quickstart.yaml", "--out", str(out)]
    subprocess.run(command, check=True, cwd=HERE.parent)
    result = {
        "what": "recipes/quickstart.yaml on the embedded model, judged by VADER on 140 held-out openings; "
        "one seed, 0",
        **figures(out),
        **about("quickstart.py"),
    }
    dtype = str(dtype_of(Model())).removeprefix("torch.")
    (HERE / "results" / f"quickstart_{dtype}.json").write_text(
        json.dumps(result, indent=2) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
