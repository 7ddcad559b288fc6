"""A hundred thousand pairs: imported within a minute in bounded memory, and a page within 100 ms."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from annotation_server import Server

PAIRS = 100_000
MEASURED = """
import resource, sys, time
from redline.data.check import Rejects
from redline.data.read import read
from redline.data.records import ToEdit
from redline.annotate.intake import add_pairs, set_up
from redline.annotate.schema import connect
from redline.data.settings import Source
engine = connect(sys.argv[1])
set_up(engine, "edit", "", None, None, None)
at_start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.perf_counter()
count = add_pairs(engine, read(Source(path=sys.argv[2]), ToEdit, Rejects()), Rejects())
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - at_start
print(count.added, time.perf_counter() - began, grown / 1024)
"""


def test_hundred_thousand_pairs(serve: Callable[..., Server], tmp_path: Path) -> None:
    pairs, db = tmp_path / "pairs.jsonl", f"sqlite:///{tmp_path}/edits.db"
    words = " ".join(f"word{number}" for number in range(60))
    with pairs.open("w") as out:
        for number in range(PAIRS):
            out.write(
                json.dumps(
                    {
                        "id": f"p{number}",
                        "prompt": f"Prompt {number}: {words}?",
                        "chosen": f"{number} {words} good",
                        "rejected": f"{number} {words} bad",
                    }
                )
                + "\n"
            )
    done = subprocess.run([sys.executable, "-c", MEASURED, db, str(pairs)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    added, seconds, memory = map(float, done.stdout.split())
    size = pairs.stat().st_size / 2**20
    print(f"import: {added:.0f} pairs ({size:.0f} MiB) in {seconds:.1f} s, {memory:.0f} MiB more memory")
    assert added == PAIRS
    assert seconds < 60
    assert memory < 100  # the file has 150 MiB; what grows with it is an 8-byte hash or two of each record

    server = serve("--annotators", "ada", db=db)
    client = server.client("ada")
    times = []
    for request in range(200):
        began = time.perf_counter()
        page = client.http.get("/")
        times.append(time.perf_counter() - began)
        assert page.status_code == 200
        if request % 2 == 0:  # every other request is for a fresh item
            data = client.page()
            assert data
            assert client.submit(data["original"].replace("bad", "good")).status_code == 200
    admin = server.client("admin")
    began = time.perf_counter()
    assert admin.http.get("/admin").status_code == 200
    print(
        f"page: median {1000 * statistics.median(times):.1f} ms; admin page "
        f"{1000 * (time.perf_counter() - began):.0f} ms"
    )
    assert statistics.median(times) < 0.1
