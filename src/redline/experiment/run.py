"""Doing what an experiment asks for and is not done: one run after another, or several at once; what they
share is done once."""

import gc
import os
import traceback
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from redline.console import console, say, speak
from redline.errors import UserError
from redline.experiment.arms import Cell
from redline.report.summary import print_summary
from redline.run.run import Run

LOOK_AGAIN = 5.0  # seconds after which runs that wait for another's reward model look for it


@dataclass(frozen=True)
class Failure:
    """A run that did not come to its end, and why."""

    cell: Cell
    reason: str


def run_cells(cells: Sequence[Cell], others: Sequence[Path] = (), parallel: int = 1) -> list[Failure]:
    """Do all runs that are not finished, ``parallel`` at once; returns those that failed, the others are
    done.

    ``others`` are folders of further runs whose finished stages may be taken over, as those of the runs
    themselves are.
    """
    known = [
        *(cell.folder for cell in cells),
        *(need.cell.folder for cell in cells for need in cell.needs),
        *others,
    ]
    if parallel > 1:
        return _at_once(cells, known, parallel)
    failures = []
    for number, cell in enumerate(cells, 1):
        console.print(f"\n{number}/{len(cells)} {cell.name}", style="bold", highlight=False)
        reason = run_cell(cell, known)
        if reason:
            failures.append(_told(cell, reason))
        gc.collect()
    return failures


def run_cell(cell: Cell, known: Iterable[Path]) -> str | None:
    """Do one run, as far as it is not done; returns why it failed, or None. A failure of the program's is
    kept in error.txt."""
    error_file = cell.folder / "error.txt"
    try:
        error_file.unlink(missing_ok=True)
        run = Run(cell.recipe, cell.folder)
        if lacks := cell.lacks:
            need = lacks[0]
            raise UserError(
                f"{need.cell.folder / need.stage}: is not there, or of another recipe. Run the arm "
                f"`{need.cell.arm}` first."
            )
        outcome = run.go(others=[other for other in known if other != cell.folder])
        if "report" in outcome.did:
            print_summary(cell.folder, run.files.report, console)  # stdout is the table's
    except UserError as error:
        return str(error)
    except (
        Exception
    ) as error:  # one arm's failure must not cost the others: it is told, kept, and the status is not 0
        error_file.parent.mkdir(parents=True, exist_ok=True)
        error_file.write_text(traceback.format_exc(), encoding="utf-8")
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]} (see {error_file})"
    return None


def _told(cell: Cell, reason: str) -> Failure:
    console.print(f"{cell.name} failed: {reason}", style="red", highlight=False, markup=False)
    return Failure(cell, reason)


def _at_once(cells: Sequence[Cell], known: Sequence[Path], parallel: int) -> list[Failure]:
    """Several runs in processes of their own. One waits while another is doing a stage that it can take over.

    Raises UserError when a process is killed, since then no other can be started.
    """
    waiting, failures = list(cells), []
    running: dict[Future[str | None], Cell] = {}
    with _processes(parallel) as pool:
        while waiting or running:
            for cell in list(waiting):
                if len(running) < parallel and not _must_wait(cell, list(running.values()), waiting, known):
                    waiting.remove(cell)
                    say(f"{cell.name}: begins, {len(waiting)} wait")
                    running[pool.submit(run_cell, cell, known)] = cell
            for done in wait(running, LOOK_AGAIN, FIRST_COMPLETED).done:
                cell = running.pop(done)
                try:
                    reason = done.result()
                except BrokenProcessPool as error:
                    raise UserError(
                        f"{cell.name}, or a run beside it, was killed; if memory was short, lower "
                        "--parallel. The same command goes on."
                    ) from error
                if reason:
                    failures.append(_told(cell, reason))
                else:
                    say(f"{cell.name}: done")
    return failures


def _must_wait(cell: Cell, running: Sequence[Cell], waiting: Sequence[Cell], known: Sequence[Path]) -> bool:
    """Whether a run under way is doing what this one can take over, or will make the reward model that it
    takes."""
    coming = {other.folder for other in [*running, *waiting]}
    if any(need.cell.folder in coming for need in cell.lacks):
        return True
    under_way = set().union(*(Run(other.recipe, other.folder).missing() for other in running))
    return bool(Run(cell.recipe, cell.folder).missing(known) & under_way)


@contextmanager
def _processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that share the processor's threads and the GPUs; when this one is stopped, they end too, with
    what they were doing."""
    spawn, gpus = get_context("spawn"), _gpus()
    turns = spawn.SimpleQueue()
    for place in range(count):
        turns.put(gpus[place % len(gpus)] if gpus else None)
    threads = max(1, (os.cpu_count() or 1) // count)
    with ProcessPoolExecutor(count, spawn, _use, (threads, turns)) as pool:
        try:
            yield pool
        except BaseException:  # leaving the pool would wait for them
            for process in active_children():
                process.terminate()
            raise


def _gpus() -> list[str]:
    """The GPUs that this process sees, by the names that CUDA_VISIBLE_DEVICES has for them."""
    import torch

    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return seen.split(",") if seen else [str(index) for index in range(torch.cuda.device_count())]


def _use(threads: int, gpus: "SimpleQueue[str | None]") -> None:
    """In a new process: as many threads, and of the GPUs the one whose turn it is."""
    speak()
    gpu = gpus.get()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu

    import torch

    torch.set_num_threads(threads)
