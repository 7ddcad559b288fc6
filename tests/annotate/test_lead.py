"""The lead's side on the functions themselves: undo and history, sending back, gold, assignment, practice,
thumbs, reasons, status."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from redline.annotate import agreement, lead, people, practice, progress, work
from redline.annotate.export import export
from redline.annotate.handout import next_work
from redline.annotate.intake import add_pairs, add_responses, set_up
from redline.annotate.lead import Filter
from redline.annotate.schema import connect
from redline.annotate.submissions import Refused, Submission, skip, submit, undo
from redline.data.check import Rejects
from redline.data.records import Edit, Feedback, Response, ToEdit

ORIGINAL = "The capital of Australia is Sydney, a town of some size and fame."
CANBERRA = ORIGINAL.replace("Sydney", "Canberra")
PERTH = ORIGINAL.replace("Sydney", "Perth")


@pytest.fixture
def engine(db_url: str) -> Engine:
    return connect(db_url)


class Team:
    """A project of ``count`` items, its lead and three people."""

    def __init__(self, engine: Engine, count: int, share: float = 0.0, **more: Any):
        self.engine = engine
        set_up(engine, "edit", "", None, share, None, **more)
        pairs = [ToEdit(id=f"p{n}", prompt=f"Question {n}", rejected=ORIGINAL) for n in range(count)]
        add_pairs(engine, pairs, Rejects())
        self.lead = people.ensure(engine, "admin", admin=True)
        self.ada, self.ben, self.eve = (people.ensure(engine, name) for name in ("ada", "ben", "eve"))

    def do(self, person: int, text: str | None = CANBERRA, verdict: str = "edited", **more: Any) -> int:
        current = next_work(self.engine, person, 60)
        assert current
        submit(self.engine, current.id, person, Submission(verdict, text, revision=current.revision, **more))
        return current.id

    def own(self, number: int, person: int) -> work.Work:
        current = work.own_work(self.engine, number, person)
        assert current
        return current

    def exported(self, tmp_path: Path, *arguments: Any) -> list[dict[str, Any]]:
        export(self.engine, tmp_path / "out.jsonl", *arguments)
        lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def found(self, **wanted: Any) -> list[str]:
        return [entry.key for entry in lead.find(self.engine, Filter(**wanted), 1)[0]]


def test_undo_of_the_first_submission(engine: Engine, tmp_path: Path) -> None:
    team = Team(engine, 2)
    number = team.do(team.ada, note="sure")
    with pytest.raises(Refused, match="another window"):
        undo(engine, number, team.ada, 0, 60)
    undo(engine, number, team.ada, 1, 60)
    back = next_work(engine, team.ada, 60)
    assert back
    assert (back.id, back.draft, back.note, back.state) == (number, CANBERRA, "sure", "open")
    assert team.exported(tmp_path) == []
    assert next_work(engine, team.ben, 60).id != number  # type: ignore[union-attr]
    with pytest.raises(Refused, match="nothing to undo"):
        undo(engine, number, team.ada, 2, 60)
    submit(engine, number, team.ada, Submission("fine", revision=2))
    (record,) = team.exported(tmp_path, "all", None, True)
    assert [line["act"] for line in record["history"]] == ["submitted", "undone", "submitted"]
    assert record["history"][0]["edited"] == CANBERRA, "what was taken back is kept"


def test_undo_of_a_later_submission_restores_the_one_before(engine: Engine, tmp_path: Path) -> None:
    team = Team(engine, 1)
    number = team.do(team.ada)
    lead.refuse(engine, number, True, team.lead)
    submit(engine, number, team.ada, Submission("unfixable", revision=2))
    assert "refused" not in team.exported(tmp_path)[0]
    undo(engine, number, team.ada, 3, 60)
    (record,) = team.exported(tmp_path)
    assert (record["verdict"], record["edited"]) == ("edited", CANBERRA)
    assert "refused" in record, "as it stood before"


def test_undo_of_a_skip(engine: Engine) -> None:
    team = Team(engine, 1)
    current = next_work(engine, team.ada, 60)
    assert current
    revision = skip(engine, current.id, team.ada, "not mine", current.revision)
    assert skip(engine, current.id, team.ada, "not mine", current.revision) == revision, "asked twice"
    undo(engine, current.id, team.ada, revision, 60)
    again = next_work(engine, team.ada, 60)
    assert again
    assert again.id == current.id
    revision = skip(engine, current.id, team.ada, "", again.revision)
    team.do(team.ben)
    with pytest.raises(Refused, match="somebody else"):
        undo(engine, current.id, team.ada, revision, 60)


def test_sent_back_to_its_author(engine: Engine, tmp_path: Path) -> None:
    team = Team(engine, 2)
    number = team.do(team.ada)
    with pytest.raises(Refused, match="Say why"):
        lead.send_back(engine, number, " ", team.lead)
    lead.send_back(engine, number, "Look at the population.", team.lead)
    (record,) = team.exported(tmp_path)
    assert record["returned_why"] == "Look at the population."
    assert {"returned", "refused"} <= set(record), "it is still there, and says what became of it"
    done = export(engine, tmp_path / "accepted.jsonl", "accepted")
    assert (done.records, done.left_out) == (0, {"sent back": 1})
    back = next_work(engine, team.ada, 60)
    assert back
    assert (back.id, back.why, back.returned) == (number, "Look at the population.", True)
    assert team.found(state="returned") == ["p0"]
    with pytest.raises(Refused, match="another window"):  # a page from before it was sent back
        submit(engine, number, team.ada, Submission("fine", revision=1))
    submit(engine, number, team.ada, Submission("edited", PERTH, revision=back.revision))
    (record,) = team.exported(tmp_path, "accepted")
    assert record["edited"] == PERTH
    assert not {"returned", "returned_why", "refused"} & set(record)


def test_given_to_another_person(engine: Engine, tmp_path: Path) -> None:
    team = Team(engine, 2)
    number = team.do(team.ada)
    lead.send_back(engine, number, "Somebody who knows cities, please.", team.lead, team.ben)
    assert next_work(engine, team.eve, 60).id != number  # type: ignore[union-attr]
    given = next_work(engine, team.ben, 60)
    assert given
    assert (given.key, given.why) == ("p0", "Somebody who knows cities, please.")
    (row,) = work.recent(engine, team.ada)
    assert row.returned_why == "Somebody who knows cities, please.", "the author sees it, too"
    with pytest.raises(Refused, match="ben has this item already"):
        lead.send_back(engine, number, "Again.", team.lead, team.ben)
    submit(engine, given.id, team.ben, Submission("edited", PERTH, revision=given.revision))
    (record,) = team.exported(tmp_path)
    assert (record["editor"], record["edited"]) == ("ben", PERTH)
    assert record["also"][0]["editor"] == "ada"
    item = lead.look_at(engine, given.item_id)
    assert item
    assert [(line.act, line.name) for line in item.history] == [
        ("submitted", "ada"),
        ("passed on", "admin"),
        ("submitted", "ben"),
    ]


def test_the_lead_decides(engine: Engine, tmp_path: Path) -> None:
    team = Team(engine, 1, share=1.0)
    adas = team.do(team.ada, PERTH)
    bens = team.do(team.ben, CANBERRA)
    item_id = team.own(adas, team.ada).item_id
    assert team.found(disagreement=True) == ["p0"]
    assert team.exported(tmp_path)[0]["editor"] == "ada", "the same size: the first one"
    lead.refuse(engine, bens, True, team.lead)
    lead.choose(engine, bens, team.lead)
    (record,) = team.exported(tmp_path, "accepted")
    assert (record["editor"], record["edited"], record["gold"]["by"]) == ("ben", CANBERRA, "admin")
    assert [other["editor"] for other in team.exported(tmp_path)[0]["also"]] == ["ada"]
    with pytest.raises(Refused, match="The lead has decided"):
        undo(engine, bens, team.ben, 2, 60)
    darwin = ORIGINAL.replace("Sydney", "Darwin")
    lead.decide(engine, item_id, team.lead, "edited", darwin, "neither")
    (record,) = team.exported(tmp_path, "accepted")
    assert (record["editor"], record["edited"], record["note"]) == ("admin", darwin, "neither")
    with pytest.raises(Refused, match="at most 50%"):
        lead.decide(engine, item_id, team.lead, "edited", "All new.", "")
    assert team.found(state="gold") == ["p0"]
    lead.undo_gold(engine, item_id, team.lead)
    assert "gold" not in team.exported(tmp_path)[0]
    item = lead.look_at(engine, item_id)
    assert item
    acts = [line.act for line in item.history]
    assert acts == ["submitted", "submitted", "refused", "gold", "gold", "gold undone"]


def test_five_people_on_one_item(engine: Engine) -> None:
    team = Team(engine, 1, share=1.0, raters=5)
    others = [people.ensure(engine, name) for name in ("fay", "gus", "hal")]
    everybody = [team.ada, team.ben, team.eve, *others]
    assert progress.totals(engine).total == 5
    for person in everybody[:5]:
        team.do(person, PERTH if person == team.eve else CANBERRA)
    assert next_work(engine, everybody[5], 60) is None
    said = agreement.disagreement(engine)
    assert (said.overall.items, len(said.pairs)) == (1, 10)
    assert said.overall.verdicts == 1.0
    assert said.pairs[("ada", "ben")].overlap == 1.0
    assert said.pairs[("ada", "eve")].overlap == pytest.approx(1 / 3)  # the same deletion, another word
    assert said.overall.overlap == pytest.approx((6 + 4 / 3) / 10)
    assert said.overall.alpha == 1.0, "all five changed the same place"


def test_someone_alone_can_finish(engine: Engine) -> None:
    set_up(engine, "edit", "", None, 1.0, None)
    add_pairs(engine, [ToEdit(id=f"p{n}", prompt="Q", rejected=ORIGINAL) for n in range(3)], Rejects())
    ada = people.ensure(engine, "ada")
    for _ in range(3):
        current = next_work(engine, ada, 60)
        assert current
        submit(engine, current.id, ada, Submission("fine", revision=0))
    counts = work.counts(engine, ada)
    assert (counts["done"], counts["total"]) == (3, 3)
    figures = progress.totals(engine)
    assert (figures.items_done, figures.items_several) == (3, 0), "what happened, not what was planned"
    people.ensure(engine, "ben")
    assert work.counts(engine, ada)["total"] == 6


def test_assigned_items_go_to_nobody_else(engine: Engine) -> None:
    team = Team(engine, 10)
    assert lead.assign(engine, Filter(), 0.4, team.ben) == 4
    assert lead.assign(engine, Filter(text="Question 3"), 1.0, team.eve) in (0, 1)
    theirs = set(team.found(person="ben"))
    assert len(theirs) == 4
    first = next_work(engine, team.ben, 60)
    assert first
    assert first.key in theirs, "what is assigned comes first"
    met = set()
    while current := next_work(engine, team.ada, 60):
        met.add(current.key)
        submit(engine, current.id, team.ada, Submission("fine", revision=0))
    assert not met & theirs
    people.take_back(engine, team.ben)
    assert next_work(engine, team.ada, 60), "who left, leaves nothing behind that nobody may take"


def test_filters(engine: Engine) -> None:
    team = Team(engine, 60, reasons=["wrong fact", "100%_sure"])
    reason = {"number": 0, "deleted": "Sydney", "inserted": "Canberra", "reason": "100%_sure"}
    team.do(team.ada, reasons=[reason], note="Checked in an ATLAS")
    team.do(team.ben, None, "fine")
    assert team.found(reason="100%_sure") == ["p0"]
    assert team.found(reason="100") == []
    assert team.found(text="atlas") == ["p0"]
    assert team.found(text="question 59") == ["p59"]
    assert team.found(text="%") == []
    assert team.found(person="ben") == ["p1"]
    assert team.found(state="done") == ["p0", "p1"]
    listed, total = lead.find(engine, Filter(), 2)
    assert (len(listed), total) == (10, 60)


def test_reasons_of_changes(engine: Engine, tmp_path: Path) -> None:
    team = Team(engine, 2, reasons=["wrong fact", "style"])
    text = ORIGINAL.replace("Sydney", "Canberra").replace(" and fame", "")
    given = [
        {"number": 0, "deleted": "Sydney", "inserted": "Canberra", "reason": "wrong fact"},
        {"number": 1, "deleted": "something else", "inserted": "", "reason": "style"},
        {"number": 9, "deleted": "x", "inserted": "", "reason": "style"},
    ]
    team.do(team.ada, text, reasons=given)
    (record,) = team.exported(tmp_path)
    assert record["reasons"] == [
        {
            "start": 28,
            "end": 34,
            "edited_start": 28,
            "edited_end": 36,
            "deleted": "Sydney",
            "inserted": "Canberra",
            "reason": "wrong fact",
        }
    ]
    with pytest.raises(Refused, match="not in the project's list"):
        team.do(team.ada, text, reasons=[{**given[0], "reason": "because"}])


def test_practice_comes_first_and_counts_nowhere(engine: Engine, tmp_path: Path) -> None:
    team = Team(engine, 1)
    known = [
        Edit.model_validate(
            {"id": "k0", "prompt": "Q", "rejected": ORIGINAL, "edited": CANBERRA, "explanation": "An atlas."}
        ),
        Edit(id="k1", prompt="Q", rejected=CANBERRA, edited=CANBERRA),
        Edit(id="p0", prompt="Question 0", rejected=ORIGINAL, edited=CANBERRA),
    ]
    for _ in range(2):  # the same command again adds nothing
        practice.add_practice(engine, "edit", known, Rejects())
    assert progress.totals(engine).practice == 2, "an ordinary item does not become practice"
    told = []
    for text, verdict in ((PERTH, "edited"), (None, "unfixable")):
        number = team.do(team.ada, text, verdict)
        done = team.own(number, team.ada)
        assert done.practice
        told.append(practice.lesson(engine, done).told)
        practice.tell(engine, done, team.ada)
    assert told[0].startswith("33% of the single changes are the same. 1 of the known answer's")
    assert told[1] == "Your answer: cannot be fixed by editing. The known answer: already fine."
    assert [(row.name, row.key, row.told) for row in practice.results(engine)] == [
        ("ada", "k0", told[0]),
        ("ada", "k1", told[1]),
    ]
    team.do(team.ada)
    assert next_work(engine, team.ada, 60) is None
    assert [record["id"] for record in team.exported(tmp_path)] == ["p0"]
    figures = progress.totals(engine)
    assert (figures.done, figures.total, figures.items) == (1, 1, 1)
    assert progress.rates(engine)[0].practised == 2
    begun = next_work(engine, team.ben, 60)
    assert begun
    assert begun.key == "k0", "everybody practises"


def test_practice_names_the_sides_that_the_person_saw(engine: Engine) -> None:
    set_up(engine, "compare", None, None, 0.0, None)
    known = [
        practice.KnownComparison(id=f"k{number}", prompt="Q", a="good", b="bad", preference=1)
        for number in range(16)
    ]
    practice.add_practice(engine, "compare", known, Rejects())
    ada = people.ensure(engine, "ada")
    sides = set()
    for _ in known:
        current = next_work(engine, ada, 60)
        assert current
        submit(engine, current.id, ada, Submission("b", revision=current.revision))
        done = work.own_work(engine, current.id, ada)
        assert done
        a_side, b_side = "left (first)", "right (second)"
        if done.swapped:
            a_side, b_side = b_side, a_side
        told = practice.lesson(engine, done).told
        assert told.startswith(f"Your answer: the {b_side} response")
        assert told.endswith(f"The known answer: the {a_side} response is better.")
        sides.add(done.swapped)
    assert sides == {True, False}
    submit(engine, current.id, ada, Submission("a", revision=done.revision))
    done = work.own_work(engine, current.id, ada)
    assert done
    assert practice.lesson(engine, done).told.startswith("Correct: the ")


def test_thumbs(engine: Engine, tmp_path: Path) -> None:
    set_up(engine, "feedback", None, None, 1.0, None)
    responses = [Response(id=f"r{n}", prompt=f"Q{n}", response=f"answer {n}") for n in range(3)]
    add_responses(engine, responses, Rejects())
    said = {"ada": ("up", "down", "up"), "ben": ("up", "down", "down")}
    for name, verdicts in said.items():
        person = people.ensure(engine, name)
        for verdict in verdicts:
            current = next_work(engine, person, 60)
            assert current
            submit(engine, current.id, person, Submission(verdict, revision=0))
    done = export(engine, tmp_path / "out.jsonl")
    assert (done.records, done.left_out) == (2, {"as many thumbs up as down": 1})
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    feedback = [Feedback.model_validate_json(line) for line in lines]
    assert [(one.id, one.prompt, one.response, one.liked) for one in feedback] == [
        ("r0", "Q0", "answer 0", True),
        ("r1", "Q1", "answer 1", False),
    ]
    with pytest.raises(Refused, match="does not exist here"):
        submit(engine, 1, 1, Submission("edited", "x", revision=1))


def test_edits_as_thumbs(engine: Engine, tmp_path: Path) -> None:
    team = Team(engine, 3)
    team.do(team.ada)
    team.do(team.ada, None, "fine")
    team.do(team.ada, None, "unfixable")
    records = team.exported(tmp_path, "feedback")
    assert [(record["id"], record["response"], record["liked"]) for record in records] == [
        ("p1", ORIGINAL, True),
        ("p2", ORIGINAL, False),
    ]


def test_status(engine: Engine, redline: Any) -> None:
    team = Team(engine, 4, share=1.0)
    team.do(team.ada)
    team.do(team.ben)
    url = engine.url.render_as_string(hide_password=False).replace("+psycopg", "")
    status, out, _ = redline("annotate", "--status", "--json", "--db", url)
    figures = json.loads(out)
    assert status == 0
    assert (figures["done"], figures["total"], figures["items_several"]) == (2, 8, 1)
    assert [(one["name"], one["done"]) for one in figures["people"]] == [("ada", 1), ("ben", 1), ("eve", 0)]
    status, out, _ = redline("annotate", "--status", "--db", url)
    assert status == 0
    assert "2 of 8 done" in out
    assert "ada" in out
