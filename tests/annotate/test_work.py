"""Hand-out, leases, drafts, imports, agreement and export, on the functions themselves."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotation_server import Server
from annotation_server import export as exported
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, func, inspect, select, text, update

from redline.annotate import agreement, lead, people, progress, work
from redline.annotate.export import export
from redline.annotate.handout import next_work, take_up_skipped
from redline.annotate.intake import add_comparison, add_drafts, add_pairs, set_up
from redline.annotate.migrations import MIGRATIONS
from redline.annotate.schema import connect, migrate, slot, tables, writing
from redline.annotate.serve import Options, annotate, connect_existing
from redline.annotate.submissions import Refused, Submission, save_draft, skip, submit
from redline.annotate.texts import browser_text, objection, restore_line_ends
from redline.data.check import Rejects
from redline.data.files import read_jsonl
from redline.data.records import Edit, Feedback, Response, ToEdit
from redline.data.settings import Source
from redline.errors import UserError
from redline.judge.judges import load_judge

ORIGINAL = "The capital of Australia is Sydney, a town of some size and fame."


@pytest.fixture
def engine(db_url: str) -> Engine:
    return connect(db_url)


def _pairs(count: int) -> list[ToEdit]:
    return [
        ToEdit.model_validate(
            {
                "id": f"p{number}",
                "prompt": f"Question {number}",
                "rejected": ORIGINAL,
                "chosen": "Canberra.",
                "extra": {"n": number},
            }
        )
        for number in range(count)
    ]


def _fill(engine: Engine, count: int, share: float = 0.0, **more: Any) -> list[int]:
    set_up(engine, "edit", "", more.get("max_ratio"), share, more.get("lease"))
    add_pairs(engine, _pairs(count), Rejects())
    return [people.ensure(engine, name) for name in ("ada", "ben", "eve")]


def _submit(
    engine: Engine, work_id: int, person: int, verdict: str, text: str | None, note: str, seconds: float
) -> int:
    """Submit from a page that is up to date."""
    current = work.own_work(engine, work_id, person)
    revision = current.revision if current else 0
    return submit(engine, work_id, person, Submission(verdict, text, note, seconds, revision))


def _do(engine: Engine, person: int, edited: str | None = None, verdict: str = "edited") -> int:
    found = next_work(engine, person, 60)
    assert found
    _submit(engine, found.id, person, verdict, edited or found.original.replace("Sydney", "Canberra"), "", 2)
    return found.id


def _several(engine: Engine) -> int:
    """How many items are meant for a second person."""
    with engine.connect() as db:
        return db.execute(select(func.count()).where(slot.c.place == 2)).scalar_one()


def _exported(engine: Engine, tmp_path: Path, *arguments: Any) -> list[dict[str, Any]]:
    out = tmp_path / "out.jsonl"
    export(engine, out, *arguments)
    return [json.loads(line) for line in out.read_text().split("\n") if line]


def test_nobody_gets_what_another_has(engine: Engine) -> None:
    ada, ben, eve = _fill(engine, 3)
    held = [next_work(engine, person, 60) for person in (ada, ben, eve)]
    assert len({item.body["extra"]["n"] for item in held if item}) == 3
    again = next_work(engine, ada, 60)
    assert again == held[0], "the same item until it is done"
    assert work.counts(engine, ada) == {"mine": 0, "skipped": 0, "done": 0, "total": 3}


def test_a_lapsed_lease_returns_the_item(engine: Engine) -> None:
    ada, ben, _ = _fill(engine, 1)
    first = next_work(engine, ada, -1)
    assert first
    assert save_draft(engine, first.id, ada, "half an edit", "a note", 5, [0], -1) == "kept"
    second = next_work(engine, ben, 60)
    assert second
    assert second.body == first.body
    assert second.draft is None, "another's draft is not shown"
    assert save_draft(engine, first.id, ada, "more", "", 6, [5], 60) == "lost"
    with pytest.raises(Refused, match="somebody else") as refused:
        _submit(engine, first.id, ada, "edited", ORIGINAL.replace("Sydney", "Canberra"), "", 1)
    assert refused.value.taken
    assert next_work(engine, ada, 60) is None
    skip(engine, second.id, ben, "", second.revision)
    back = next_work(engine, ada, 60)
    assert back
    assert (back.draft, back.note) == ("half an edit", "a note"), "one's own draft is kept"


def test_a_lapsed_lease_that_nobody_took_is_still_good(engine: Engine) -> None:
    ada, *_ = _fill(engine, 1)
    first = next_work(engine, ada, -1)
    assert first
    _submit(engine, first.id, ada, "fine", None, "", 1)
    assert work.counts(engine, ada)["done"] == 1


def test_a_draft_does_not_replace_one_of_another_page(engine: Engine) -> None:
    ada, *_ = _fill(engine, 1)
    first = next_work(engine, ada, 60)
    assert first
    assert save_draft(engine, first.id, ada, "on the laptop", "", 900, [0], 60) == "kept"
    for late in ("on the phone", None):
        assert save_draft(engine, first.id, ada, late, "", 1000, [0], 60) == "newer", (
            "the phone has not seen the laptop's"
        )
    assert save_draft(engine, first.id, ada, "laptop, its clock set back", "", 700, [900], 60) == "kept"
    assert save_draft(engine, first.id, ada, "after a lost answer", "", 800, [900, 700], 60) == "kept"
    again = next_work(engine, ada, 60)
    assert again
    assert (again.draft, again.draft_at) == ("after a lost answer", 800)


def test_skipped_items_go_to_others_and_come_back(engine: Engine) -> None:
    ada, ben, _ = _fill(engine, 1)
    first = next_work(engine, ada, 60)
    assert first
    skip(engine, first.id, ada, "not my field", first.revision)
    assert next_work(engine, ada, 60) is None
    assert take_up_skipped(engine, ada) == 1
    again = next_work(engine, ada, 60)
    assert again
    assert again.note == "not my field"
    skip(engine, again.id, ada, "", again.revision)
    assert next_work(engine, ben, 60)


def test_agreement_items_go_to_two_different_people(engine: Engine, tmp_path: Path) -> None:
    ada, ben, eve = _fill(engine, 10, share=0.2)
    assert (progress.totals(engine).total, progress.totals(engine).items) == (12, 10)
    while next_work(engine, ada, 60):
        _do(engine, ada)
    assert work.counts(engine, ada)["mine"] == 10, "never the same item twice"
    assert next_work(engine, ben, 60)
    _do(engine, ben)
    _do(engine, eve)
    assert next_work(engine, ben, 60) is None
    twice = [record for record in _exported(engine, tmp_path) if "also" in record]
    assert {frozenset([record["editor"], record["also"][0]["editor"]]) for record in twice} == {
        frozenset(["ada", "ben"]),
        frozenset(["ada", "eve"]),
    }


def test_the_share_is_exact_over_several_imports(engine: Engine) -> None:
    set_up(engine, "edit", "", None, 0.1, None)
    for start in range(0, 95, 19):
        add_pairs(engine, _pairs(95)[start : start + 19], Rejects())
    assert _several(engine) == 9


def test_importing_again_adds_nothing_and_names_conflicts(engine: Engine) -> None:
    _fill(engine, 5)
    rejects = Rejects()
    changed = _pairs(6)
    changed[2] = changed[2].model_copy(update={"rejected": "another text"})
    count = add_pairs(engine, changed, rejects)
    assert (count.added, count.known, count.refused) == (1, 4, 1)
    assert list(rejects.counts) == ["another record of this id is in the database"]
    with pytest.raises(UserError, match="blind comparison"):
        set_up(engine, "compare", None, None, None, None)


def test_drafts_of_a_model(engine: Engine, tmp_path: Path) -> None:
    ada, *_ = _fill(engine, 1)
    perth = ORIGINAL.replace("Sydney", "Perth")
    edits = [
        Edit(id="p0", prompt="Question 0", rejected=ORIGINAL, edited=perth, editor="some-model"),
        Edit(id="p0", prompt="Question 0", rejected="other", edited="x", editor="some-model"),
        Edit(
            id="new",
            prompt=[{"role": "user", "content": "Hi"}],
            rejected=[{"role": "assistant", "content": "Hullo, you"}],
            edited=[{"role": "assistant", "content": "Hello, you"}],
            editor="some-model",
        ),
    ]
    rejects = Rejects()
    count = add_drafts(engine, edits, rejects)
    assert (count.added, count.known, count.refused, count.drafts) == (1, 1, 1, 2)
    assert add_drafts(engine, edits[:1], Rejects()).drafts == 0, "the first draft stays"
    first = next_work(engine, ada, 60)
    assert first
    assert (first.start, first.start_by) == (edits[0].edited, "some-model")
    assert first.original == ORIGINAL
    _do(engine, ada)
    second = next_work(engine, ada, 60)
    assert second
    assert second.start == "Hello, you"
    _submit(engine, second.id, ada, "edited", "Hello, you", "kept", 1)
    records = _exported(engine, tmp_path, "accepted")
    assert records[0]["edited"] == ORIGINAL.replace("Sydney", "Canberra")
    assert records[1]["edited"] == [{"role": "assistant", "content": "Hello, you"}], (
        "the form of the response is kept"
    )
    assert {record["draft_editor"] for record in records} == {"some-model"}
    assert [edit.id for edit in read_jsonl(tmp_path / "out.jsonl", Edit)] == ["p0", "new"]


def test_drafts_come_too_late_for_what_is_begun(engine: Engine, tmp_path: Path) -> None:
    ada, *_ = _fill(engine, 3)
    _do(engine, ada)
    assert next_work(engine, ada, 60), "in hand: the page is open without a draft"
    drafts = [
        Edit(
            id=f"p{number}",
            prompt=f"Question {number}",
            rejected=ORIGINAL,
            edited="Rome.",
            editor="some-model",
        )
        for number in range(3)
    ]
    assert add_drafts(engine, drafts, Rejects()).drafts == 1
    for _ in range(2):
        _do(engine, ada)
    assert [record.get("draft_editor") for record in _exported(engine, tmp_path)] == [
        None,
        None,
        "some-model",
    ]


def test_an_earlier_export_as_drafts(engine: Engine, tmp_path: Path) -> None:
    set_up(engine, "edit", "", None, 0.0, None)
    rome = {
        "id": "y",
        "prompt": "p",
        "rejected": ORIGINAL,
        "edited": ORIGINAL.replace("Sydney", "Rome"),
        "source": "mine",
    }
    earlier = {
        "editor": "ada",
        "verdict": "edited",
        "ratio": 0.1,
        "note": "an old note",
        "refused": "2020-01-01T00:00:00.000Z",
        "draft_editor": "gpt",
        "seconds": 1.0,
        "also": [{"edited": "z", "editor": "ben"}],
    }
    add_drafts(engine, [Edit.model_validate(rome | earlier)], Rejects())
    _do(engine, people.ensure(engine, "cyd"))
    (record,) = _exported(engine, tmp_path)
    assert set(record) == {
        "id",
        "prompt",
        "rejected",
        "edited",
        "source",
        "editor",
        "verdict",
        "ratio",
        "started",
        "submitted",
        "seconds",
        "draft_editor",
    }
    assert (record["editor"], record["draft_editor"], record["source"]) == ("cyd", "ada", "mine")


@pytest.mark.parametrize(
    ("ada_does", "ben_does", "winner"),
    [
        (
            ("edited", "The capital of Australia is Canberra, a city of some size and fame."),
            ("edited", None),
            "ben",
        ),  # the smaller
        (("fine", None), ("edited", None), "ben"),
        (("fine", None), ("unfixable", None), "ada"),
        (("edited", None), ("edited", None), "ada"),  # a tie: the first one
    ],
)
def test_how_agreement_items_are_resolved(
    engine: Engine,
    tmp_path: Path,
    ada_does: tuple[str, str | None],
    ben_does: tuple[str, str | None],
    winner: str,
) -> None:
    ada, ben, _ = _fill(engine, 1, share=1.0)
    first = _do(engine, ada, ada_does[1], ada_does[0])
    _do(engine, ben, ben_does[1], ben_does[0])
    (record,) = _exported(engine, tmp_path)
    assert record["editor"] == winner
    assert [other["editor"] for other in record["also"]] == [{"ada": "ben", "ben": "ada"}[winner]]
    lead.refuse(engine, first, True, ada)
    assert _exported(engine, tmp_path)[0]["editor"] == "ben", "what is refused comes last"
    accepted = _exported(engine, tmp_path, "accepted")
    assert [record["editor"] for record in accepted] == (["ben"] if ben_does[0] == "edited" else [])


def test_submitting_again(engine: Engine, tmp_path: Path) -> None:
    ada, *_ = _fill(engine, 2)
    first = next_work(engine, ada, 60)
    assert first
    canberra = ORIGINAL.replace("Sydney", "Canberra")
    sent = Submission("edited", canberra, "", 2, first.revision, "token-1")
    revision = submit(engine, first.id, ada, sent)
    (before,) = _exported(engine, tmp_path)
    assert submit(engine, first.id, ada, sent) == revision
    assert _exported(engine, tmp_path) == [before], "an answer that was lost on the way changes nothing"
    with pytest.raises(Refused, match="another window") as stale:
        submit(engine, first.id, ada, Submission("fine", None, "", 2, first.revision, "token-2"))
    assert stale.value.current is not None
    assert (stale.value.current["verdict"], stale.value.current["edited"]) == ("edited", canberra)
    assert _exported(engine, tmp_path) == [before], "a stale page replaces nothing"
    submit(engine, first.id, ada, Submission("unfixable", None, "on second thoughts", 1, revision, "token-3"))
    (after,) = _exported(engine, tmp_path, "all", None, True)
    assert (after["verdict"], after["edited"], after["note"]) == ("unfixable", ORIGINAL, "on second thoughts")
    assert [(line["who"], line["act"], line["verdict"]) for line in after["history"]] == [
        ("ada", "submitted", "edited"),
        ("ada", "submitted", "unfixable"),
    ]
    assert after["history"][0]["edited"] == canberra
    with pytest.raises(Refused, match="not yours"):
        submit(engine, first.id, ada + 1, Submission("fine"))


def test_blind_comparison(engine: Engine, tmp_path: Path) -> None:
    set_up(engine, "compare", None, None, 0.0, None)
    a = [Response(id=f"r{n}", prompt=f"Q{n}", response=f"from a {n}") for n in range(40)]
    b = [Response(id=f"r{n}", prompt=f"Q{n}" if n else "other", response=f"from b {n}") for n in range(39)]
    rejects = Rejects()
    assert add_comparison(engine, a, b, rejects).added == 38
    assert sum(rejects.counts.values()) == 2
    ada = people.ensure(engine, "ada")
    swapped = []
    for number in range(38):
        found = next_work(engine, ada, 60)
        assert found
        swapped.append(found.swapped)
        _submit(engine, found.id, ada, ("a", "b", "tie")[number % 3], None, "", 1)
    assert 4 < sum(swapped) < 34, "sides are drawn at random"
    records = _exported(engine, tmp_path)
    assert [record["preference"] for record in records[:3]] == [1.0, 0.0, 0.5]
    add_comparison(engine, a[:1], [b[0], Response(id="b alone", prompt="Q", response="x")], rejects)
    assert rejects.counts["only B has a response of this id"] == 1
    judge = load_judge(f"human:{tmp_path / 'out.jsonl'}")
    assert judge.prefer(["Q1", "Q1"], ["from a 1", "from b 1"], ["from b 1", "from a 1"]) == [1.0, 0.0]
    with pytest.raises(Refused):
        _submit(engine, 1, ada, "edited", "x", "", 1)


def test_agreement_of_two(engine: Engine) -> None:
    ada, ben, _ = _fill(engine, 2, share=1.0)
    _do(engine, ada)
    _do(engine, ben)
    _do(engine, ada)
    _do(engine, ben, ORIGINAL.replace("fame", "name"))
    found = agreement.disagreement(engine)
    assert (found.overall.items, found.overall.verdicts, found.overall.overlap) == (2, 1.0, 0.5)
    assert found.pairs[("ada", "ben")] == found.overall
    assert found.worst == [(2, "p1", 0.0)]
    assert found.overall.alpha == pytest.approx(_alpha_by_hand(both=1, one=2, none=2 * 31 - 3))


def _alpha_by_hand(both: int, one: int, none: int) -> float:
    """Krippendorff's alpha of two raters and two values, from the coincidence matrix (Krippendorff 2011)."""
    ones, zeros = 2 * both + one, 2 * none + one
    n = ones + zeros
    return 1 - (n - 1) * one / (ones * zeros)


def test_units_of_an_edit() -> None:
    labels, changes = agreement.units("a b c", "a x b d")
    assert labels.tolist() == [0, 0, 1, 0, 0, 1, 0]
    assert changes == {("+", 1, 0, "x"), ("-", 2, 0, "c"), ("+", 2, 0, "d")}
    assert agreement.overlap(frozenset(), frozenset()) == 1.0
    assert agreement.alpha([[np.zeros(3, np.int8), np.zeros(3, np.int8)]]) is None


def test_schema_moves_on(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/old.db"
    old = create_engine(url)
    migrate(old, to=1)
    with old.begin() as db:
        db.execute(text("INSERT INTO person (name, admin, created) VALUES ('ada', 0, 1.0)"))
    engine = connect(url)
    assert [row.name for row in people.everyone(engine)] == ["ada"]
    with writing(engine).begin() as db:
        db.execute(text("UPDATE schema_version SET version = 99"))
    with pytest.raises(UserError, match="newer Redline"):
        connect(url)


def test_migrations_make_the_tables(engine: Engine) -> None:
    found = inspect(engine)
    for table in tables.sorted_tables:
        columns = {column["name"]: column for column in found.get_columns(table.name)}
        assert set(columns) == set(table.columns.keys()), table.name
        assert all(
            columns[name]["nullable"] == column.nullable or column.primary_key
            for name, column in table.columns.items()
        )
        assert {index.name for index in table.indexes} <= {
            index["name"] for index in found.get_indexes(table.name)
        }
    with engine.connect() as db:
        assert db.execute(text("SELECT version FROM schema_version")).scalar() == len(MIGRATIONS)


@pytest.mark.parametrize(("name", "value"), [("agreement", 1.5), ("max_ratio", 0.0), ("lease", 0.0)])
def test_settings_that_cannot_be(engine: Engine, name: str, value: float) -> None:
    settings = {"agreement": None, "max_ratio": None, "lease": None, name: value}
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')}"):
        set_up(engine, "edit", "", **settings)


def test_pairs_of_other_columns_and_ctrl_c(serve: Callable[..., Server], tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text(f'key,question,worse\n7,Where?,"{ORIGINAL}"\n', encoding="utf-8")
    server = serve(
        str(tmp_path / "own.csv"),
        "--annotators",
        "ada",
        "--columns",
        "id=key",
        "--columns",
        "prompt=question",
        "--columns",
        "rejected=worse",
    )
    client = server.client("ada")
    assert (client.page() or {})["original"] == ORIGINAL
    assert client.submit(ORIGINAL.replace("Sydney", "Canberra")).status_code == 200
    assert [(record["id"], record["prompt"], record["editor"]) for record in exported(server)] == [
        ("7", "Where?", "ada")
    ]
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(20) == 130
    told = (tmp_path / "stderr.txt").read_text()
    assert "The same command continues" in told
    assert "Traceback" not in told


def test_agreement_of_a_filled_database(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    _fill(engine, 4, share=0.5)
    set_up(engine, "edit", None, None, 0.5, None)
    assert capsys.readouterr().err == ""
    set_up(engine, "edit", None, None, 1.0, None)
    assert "items that are added from now on" in capsys.readouterr().err
    assert _several(engine) == 2


def test_ids_that_no_index_holds(engine: Engine) -> None:
    set_up(engine, "edit", None, None, None, None)
    rejects = Rejects()
    long = [ToEdit(id="\U0001f600" * size, prompt="p", rejected="r") for size in (500, 501)]
    assert add_pairs(engine, long, rejects).added == 1
    assert list(rejects.counts) == ["id is longer than 500 characters"]


def test_pairs_do_not_go_into_a_comparison(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/blind.db"
    set_up(connect(url), "compare", None, None, None, None)
    (tmp_path / "pairs.jsonl").write_text(
        json.dumps({"id": "p", "prompt": "p", "rejected": "r", "edited": "e"}) + "\n"
    )
    for options in (
        Options(url, pairs=Source(path=str(tmp_path / "pairs.jsonl"))),
        Options(url, drafts=str(tmp_path / "pairs.jsonl")),
    ):
        with pytest.raises(UserError, match="holds a blind comparison, not edits"):
            annotate(options)


@pytest.mark.parametrize(
    "url",
    [
        "annotate.example.org",
        "ftp://example.org",
        "https://",
        "https://example.org/annotate",
        "https://example.org:port",
        "https://[::1",
        "https://ada:pw@example.org",
    ],
)
def test_addresses_that_cannot_be(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="--url"):
        annotate(Options(f"sqlite:///{tmp_path}/edits.db", url=url))


@pytest.mark.parametrize("name", ["edits.db", "edits.db-wal", "edits.db-shm", "link"])
def test_export_does_not_replace_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = connect("sqlite:///edits.db")
    _fill(engine, 1)
    (tmp_path / "link").symlink_to("edits.db")
    with pytest.raises(UserError, match="is the database itself"):
        export(engine, tmp_path / name)
    assert progress.totals(engine).total == 1


@pytest.mark.parametrize(
    "url",
    [
        "mysql://x/y",
        "sqlite://",
        "nonsense",
        "sqlite:////no/such/folder/x.db",
        "postgresql://nobody@127.0.0.1:1/none",
        f"sqlite:///{__file__}",
        "postgresql://u@h:port/d",
    ],
)
def test_databases_that_cannot_be(url: str) -> None:
    with pytest.raises(UserError, match="--db"):
        connect(url)


def test_a_role_without_rights(postgres: Callable[[], str]) -> None:
    url = postgres()
    with create_engine(url.replace("postgresql:", "postgresql+psycopg:")).begin() as db:
        db.execute(text("CREATE ROLE poor LOGIN"))
    with pytest.raises(UserError, match="permission denied"):
        connect(url.replace("redline@", "poor@"))


@pytest.mark.parametrize(
    "url",
    [
        "mysql://ada:SECRET@h/d",
        "postgresql://ada:SEC/RET@127.0.0.1:1/d",
        "nonsense:ada:SECRET@h/d",
        "postgresql://ada:SEC@RET@127.0.0.1:port/d",
        "postgresql://127.0.0.1:1/d?password=SECRET",
    ],
)
def test_messages_hide_the_password(url: str) -> None:
    with pytest.raises(UserError) as refused:
        connect(url)
    assert "SEC" not in str(refused.value)
    assert "RET" not in str(refused.value)


def test_messages_hide_the_password_of_an_empty_database(postgres: Callable[[], str]) -> None:
    url = postgres().replace("redline@", "redline:SECRET@")
    for asked in (lambda: connect_existing(url), lambda: annotate(Options(url))):
        with pytest.raises(UserError, match="there is nothing in it") as refused:
            asked()
        assert "SECRET" not in str(refused.value)


def test_only_fingerprints_are_stored(tmp_path: Path) -> None:
    path = tmp_path / "edits.db"
    engine = connect(f"sqlite:///{path}")
    set_up(engine, "edit", "", None, None, None)
    token = people.new_link(engine, people.ensure(engine, "ada"))
    assert token
    assert len(token) >= 43
    cookie = people.enter(engine, token)
    assert cookie
    visitor = people.visitor(engine, cookie)
    assert visitor
    assert visitor.name == "ada"
    engine.dispose()
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert token.encode() not in stored
    assert cookie.encode() not in stored
    assert visitor.csrf.encode() not in stored


def test_a_visit_ends(engine: Engine) -> None:
    from redline.annotate.schema import visit

    set_up(engine, "edit", "", None, None, None)
    cookie = people.enter(engine, people.new_link(engine, people.ensure(engine, "ada")) or "")
    with writing(engine).begin() as db:
        db.execute(update(visit).values(expires=0.0))
    assert people.visitor(engine, cookie) is None


LINES = st.lists(st.sampled_from(["one", "two words", "", " ", "three"]), max_size=6)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@given(st.lists(st.tuples(st.sampled_from(["one", "two words", "", "three"]), ENDS), max_size=8), LINES)
def test_line_ends_come_back(lines: list[tuple[str, str]], new: list[str]) -> None:
    original = "".join(line + end for line, end in lines)
    assert restore_line_ends(original, browser_text(original)) == original
    edited = "\n".join(new)
    assert browser_text(restore_line_ends(original, edited)) == edited
    if lines and {end for _, end in lines} == {"\r\n"} and "\r" in original:
        assert "\n" not in restore_line_ends(original, edited).replace("\r\n", "")


def test_objections() -> None:
    assert objection([{"role": "user", "content": "fine", "n": [1, None]}]) is None
    assert objection({"a": ["x", {"b": "\0"}]}) is not None
    assert objection("\udc80") is not None


def test_thumbs_and_practice_from_the_command_line(serve: Callable[..., Server], tmp_path: Path) -> None:
    responses = [{"id": f"r{n}", "prompt": f"Q{n}", "response": f"answer {n}"} for n in range(2)]
    (tmp_path / "responses.jsonl").write_text("".join(json.dumps(one) + "\n" for one in responses))
    known = {"id": "k", "prompt": "Q", "response": "nonsense", "liked": False, "explanation": "It is."}
    (tmp_path / "practice.jsonl").write_text(json.dumps(known) + "\n")
    server = serve(
        "--thumbs",
        str(tmp_path / "responses.jsonl"),
        "--practice",
        str(tmp_path / "practice.jsonl"),
        "--annotators",
        "ada",
        "--agreement",
        "0",
    )
    client = server.client("ada")
    assert client.page()
    answer = client.submit(None, "up").json()
    told = client.http.get(answer["next"]).text
    assert "Your answer: thumb up. The known answer: thumb down." in told
    for verdict in ("up", "down"):
        assert client.page()
        assert client.submit(None, verdict).status_code == 200
    assert client.page() is None
    records = [Feedback.model_validate(record) for record in exported(server)]
    assert [(one.id, one.response, one.liked) for one in records] == [
        ("r0", "answer 0", True),
        ("r1", "answer 1", False),
    ]
