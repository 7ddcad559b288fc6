"""What every result file says about where it comes from, tables in docs/results.md, and the environments of
peers."""

import json
import platform
import shlex
import subprocess
import sys
import textwrap
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from redline.engine.settings import Model

LIBRARIES = ("torch", "transformers", "accelerate", "peft", "trl", "tokenizers", "rapidfuzz")
PAGE = Path(__file__).parent.parent / "docs" / "results.md"


def about(script: str, model: "Model | None" = None) -> dict[str, Any]:
    """Machine (and what a model is computed in there, by its settings), versions and command, for a result
    file."""
    import torch

    from redline.engine.models import dtype_of
    from redline.engine.settings import Model

    dtype = str(dtype_of(model or Model())).removeprefix("torch.")
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "",
    )
    return {
        "machine": f"{cpu}, {torch.get_num_threads()} threads, {dtype}, {platform.platform()}",
        "versions": {"python": platform.python_version(), "redline": _commit()}
        | {name: version(name) for name in LIBRARIES},
        "command": shlex.join(
            [
                "python",
                f"benchmarks/{script}",
                *(Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]),
            ]
        ),
    }


def _commit() -> str:
    """Of the sources that were measured; "+" where they had changed since. Results and pages, which the
    scripts write themselves, do not count."""
    commit = _git("rev-parse", "--short", "HEAD")
    written = (":(exclude)benchmarks/results", ":(exclude)docs")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *written)
    return commit + "+" * bool(changed) if commit else version("redline")


def _git(*words: str) -> str:
    """What git says in this repository; empty where it is none."""
    done = subprocess.run(["git", *words], capture_output=True, text=True, cwd=PAGE.parent.parent)
    return done.stdout.strip()


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]) + "\n"


def filled(text: str) -> str:
    """A paragraph as wide as a page's other lines."""
    return textwrap.fill(text, 135, break_on_hyphens=False) + "\n"


def into_page(script: str, name: str, text: str, path: Path = PAGE) -> None:
    """Replace what stands in a page of docs/ (results.md by default) between the two marks of ``name``."""
    start, end = f"<!-- {name}: written by benchmarks/{script} -->\n", f"<!-- end of {name} -->\n"
    page = path.read_text(encoding="utf-8")
    if start not in page or end not in page:
        raise SystemExit(
            f"{path}: has no lines {start.strip()!r} and {end.strip()!r}, between which the tables go."
        )
    before, _, rest = page.partition(start)
    path.write_text(before + start + text + end + rest.partition(end)[2], encoding="utf-8")


def new_figure(panels: int, height: float = 3.2) -> tuple["Figure", list[Any]]:
    """A figure with so many panels side by side, and their axes, in the style that all pictures share."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {
            "svg.fonttype": "none",  # text stays text, so that a page can be searched
            "svg.hashsalt": "redline",  # the same figures give the same file
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#dddddd",
        }
    )
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, panels, figsize=(9.6, height), squeeze=False, layout="constrained")
    return figure, list(axes[0])


def save_picture(figure: "Figure", path: Path) -> None:
    """Write a figure as SVG, the same bytes for the same figures."""
    from matplotlib import pyplot

    figure.savefig(path, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def environment(folder: Path, *packages: str) -> tuple[Path, dict[str, str]]:
    """A peer's own environment with some packages, made on first use; returns its Python and the versions in
    it."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
    listed = subprocess.run(
        [str(python), "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True
    )
    found = {each["name"]: each["version"] for each in json.loads(listed.stdout)}
    return python.absolute(), {name: found[name] for name in LIBRARIES if name in found}
