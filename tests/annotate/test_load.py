"""Eight annotators at once, with double tabs and stale submissions among them, and a server that is killed:
what was acknowledged is there, nothing is replaced unseen, and none is there twice."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from annotation_server import Client, Server, export, wait_until, write_pairs

PEOPLE = [f"person{number}" for number in range(8)]
DOUBLE = 160  # items done in double tabs: twenty for each of eight people, who meet at every hand-out


def _work(client: Client, acknowledged: list[tuple[str, str, str]], name: str, may_die: bool = False) -> None:
    """Edit until nothing is left, or the server is gone where it may be, and note what was acknowledged."""
    try:
        while data := client.page():
            text = data["original"].replace("bad", f"good says {name}")
            if data["work"] % 4 == 0:
                client.post(
                    "/api/draft", {"work": data["work"], "text": text, "note": "", "at": 1, "since": [0]}
                )
            if client.submit(text).status_code == 200:
                acknowledged.append((data["original"], name, text))
    except httpx.TransportError:
        if not may_die:
            raise


def _exported(records: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [
        (record["rejected"], annotation["editor"], annotation["edited"])
        for record in records
        for annotation in [record, *record.get("also", [])]
    ]


def test_eight_annotators(serve: Callable[..., Server], db_url: str, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl", 364)  # 36 of which two people do: 400 edits
    server = serve(str(pairs), "--annotators", ",".join(PEOPLE), db=db_url)
    acknowledged: list[tuple[str, str, str]] = []
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(_work, server.client(name), acknowledged, name) for name in PEOPLE]:
            done.result()

    assert len(acknowledged) == len(set(acknowledged)) == 400
    records = export(server)
    assert sorted(_exported(records)) == sorted(acknowledged)
    assert len({record["id"] for record in records}) == len(records) == 364
    times = Counter(original for original, _, _ in acknowledged)
    assert Counter(times.values()) == {1: 328, 2: 36}
    assert all(record["editor"] != other["editor"] for record in records for other in record.get("also", []))
    assert all(record["source"] == "test" and record["chosen"].endswith("good") for record in records)
    accepted = export(server, "--accepted")
    assert len(accepted) == 364
    mine = export(server, "--person", "person3")
    assert {record["editor"] for record in mine} == {"person3"}
    assert len(mine) == sum(name == "person3" for _, name, _ in acknowledged)


def _work_in_two_tabs(client: Client, taken: list[tuple[str, str]], stale: list[str], number: int) -> None:
    """Work with a second tab open, which sends its own text a moment later, or at the same time, or repeats
    what the first one sent."""
    while data := client.page():
        first = data["original"].replace("bad", f"good {number}")
        second = data["original"].replace("bad", f"worse {number}")
        with ThreadPoolExecutor(2) as both:
            sent = [(text, both.submit(client.submit, text)) for text in (first, second)]
            answers = [(text, answer.result()) for text, answer in sent]
        for text, answer in answers:
            if answer.status_code == 200:
                taken.append((data["original"], text))
            else:
                assert answer.status_code == 409, answer.text
                assert answer.json()["current"]["edited"] in (first, second), "the page can show what stands"
                stale.append(text)
        fine = client.submit(None, "fine")  # a third tab that nobody touched
        assert fine.status_code == 409
        stale.append(data["original"])
        if data["work"] % 5 == 0:  # seen what stands, and replaced knowingly; the answer is lost, sent again
            body = {
                "work": data["work"],
                "verdict": "edited",
                "text": f"{first} indeed",
                "note": "",
                "seconds": 3,
            }
            body |= {"revision": fine.json()["current"]["revision"], "token": f"again {data['work']}"}
            for _ in range(2):
                assert client.post("/api/submit", body).status_code == 200
            taken.append((data["original"], first + " indeed"))


def test_double_tabs(serve: Callable[..., Server], db_url: str, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl", DOUBLE)
    server = serve(str(pairs), "--annotators", ",".join(PEOPLE), "--agreement", "0", db=db_url)
    taken: list[tuple[str, str]] = []
    stale: list[str] = []
    with ThreadPoolExecutor(8) as pool:
        clients = [server.client(name) for name in PEOPLE]
        done = [
            pool.submit(_work_in_two_tabs, client, taken, stale, number)
            for number, client in enumerate(clients)
        ]
        for one in done:
            one.result()
    records = export(server, "--history")
    assert len(records) == DOUBLE
    assert len(stale) == 2 * DOUBLE, "of two tabs one was refused, and the third"
    kept = [
        (record["rejected"], line["edited"])
        for record in records
        for line in record["history"]
        if line["act"] == "submitted"
    ]
    assert sorted(kept) == sorted(taken), "every acknowledged submission is kept, once"
    last = dict(taken)  # in the order of the acknowledgements of each item
    assert {record["rejected"]: record["edited"] for record in records} == last


@pytest.mark.parametrize("kills", [2])
def test_killed_in_the_middle(serve: Callable[..., Server], db_url: str, tmp_path: Path, kills: int) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl", 400)
    server = serve(str(pairs), "--annotators", ",".join(PEOPLE), db=db_url)
    acknowledged: list[tuple[str, str, str]] = []
    clients = {name: server.client(name) for name in PEOPLE}
    for round_ in range(kills):
        threads = [
            threading.Thread(target=_work, args=(clients[name], acknowledged, name, True)) for name in PEOPLE
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(acknowledged) >= 60 * (round_ + 1), 60)  # noqa: B023
        assert all(thread.is_alive() for thread in threads)
        server.kill()
        for thread in threads:
            thread.join()
        server.start(server.port)  # the visits go on: cookies and links are in the database
    exported = _exported(export(server))
    assert set(acknowledged) <= set(exported)
    assert len(exported) == len(set(exported))
    assert len(exported) - len(acknowledged) <= 8 * kills  # committed, but the answer was lost on the way
    assert clients["person0"].page(), "the same visit goes on after the restart"
