"""The way of an existing database to the present tables.

Each migration is a list of plain SQL statements, run in one transaction. Never change one that was released:
add another. ``{id}`` stands for a numbered primary key, ``{ref}`` for a reference to one, ``{real}`` for a
64-bit float.
"""

MIGRATIONS: list[list[str]] = [
    [  # 1: the tables
        """CREATE TABLE project (id INTEGER PRIMARY KEY, uid TEXT NOT NULL, kind TEXT NOT NULL,
           guideline TEXT NOT NULL, max_ratio {real} NOT NULL, agreement {real} NOT NULL,
           lease {real} NOT NULL, created {real} NOT NULL)""",
        """CREATE TABLE item (id {id}, key TEXT NOT NULL UNIQUE, digest TEXT NOT NULL,
           body TEXT NOT NULL, draft TEXT,
           draft_editor TEXT)""",
        """CREATE TABLE person (id {id}, name TEXT NOT NULL UNIQUE, admin SMALLINT NOT NULL, revoked {real},
           created {real} NOT NULL)""",
        """CREATE TABLE link (hash TEXT PRIMARY KEY,
           person_id {ref} NOT NULL REFERENCES person (id), created {real} NOT NULL)""",
        """CREATE TABLE visit (hash TEXT PRIMARY KEY,
           person_id {ref} NOT NULL REFERENCES person (id), expires {real} NOT NULL)""",
        """CREATE TABLE slot (id {id}, item_id {ref} NOT NULL REFERENCES item (id), state SMALLINT NOT NULL,
           person_id {ref} REFERENCES person (id), expires {real})""",
        "CREATE INDEX slot_state ON slot (state, id)",
        "CREATE INDEX ix_slot_item_id ON slot (item_id)",
        """CREATE TABLE work (id {id}, item_id {ref} NOT NULL REFERENCES item (id),
           person_id {ref} NOT NULL REFERENCES person (id),
           slot_id {ref} NOT NULL REFERENCES slot (id), state TEXT NOT NULL, swapped SMALLINT NOT NULL,
           started {real} NOT NULL, draft TEXT, draft_note TEXT, draft_at {real}, verdict TEXT,
           edited TEXT, note TEXT, ratio {real}, seconds {real},
           submitted {real}, UNIQUE (item_id, person_id))""",
        "CREATE INDEX ix_work_slot_id ON work (slot_id)",
        "CREATE INDEX work_person ON work (person_id, state, submitted)",
    ],
    [  # 2: the admin can refuse an edit, and the newest edits are found without reading all
        "ALTER TABLE work ADD COLUMN refused {real}",
        "CREATE INDEX work_submitted ON work (submitted)",
    ],
    [  # 3: history, revisions, reasons, sending back, assignment, gold, practice, up to five people an item
        "ALTER TABLE project ADD COLUMN reasons TEXT NOT NULL DEFAULT '[]'",
        "ALTER TABLE project ADD COLUMN raters INTEGER NOT NULL DEFAULT 2",
        "ALTER TABLE person ADD COLUMN guided {real}",
        "ALTER TABLE slot ADD COLUMN place INTEGER NOT NULL DEFAULT 1",
        "ALTER TABLE slot ADD COLUMN assigned {ref} REFERENCES person (id)",
        "ALTER TABLE slot ADD COLUMN why TEXT",
        """UPDATE slot SET place = (SELECT count(*) FROM slot AS other
           WHERE other.item_id = slot.item_id AND other.id <= slot.id)""",
        "DROP INDEX slot_state",
        "CREATE INDEX slot_free ON slot (state, assigned, id)",
        "ALTER TABLE work ADD COLUMN revision INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE work ADD COLUMN reasons TEXT",
        "ALTER TABLE work ADD COLUMN returned {real}",
        "ALTER TABLE work ADD COLUMN returned_why TEXT",
        "CREATE INDEX work_returned ON work (returned)",
        "UPDATE work SET revision = 1 WHERE submitted IS NOT NULL",
        """CREATE TABLE history (id {id}, item_id {ref} NOT NULL REFERENCES item (id),
           work_id {ref} REFERENCES work (id), person_id {ref} REFERENCES person (id), at {real} NOT NULL,
           act TEXT NOT NULL, revision INTEGER NOT NULL, token TEXT, verdict TEXT, edited TEXT, note TEXT,
           ratio {real}, seconds {real}, reasons TEXT)""",
        "CREATE INDEX history_item ON history (item_id, id)",
        "CREATE INDEX history_work ON history (work_id, id)",
        """INSERT INTO history (item_id, work_id, person_id, at, act, revision, verdict, edited, note, ratio,
           seconds) SELECT item_id, id, person_id, submitted, 'submitted', 1, verdict, edited, note, ratio,
           seconds FROM work WHERE submitted IS NOT NULL ORDER BY submitted""",
        """INSERT INTO history (item_id, work_id, at, act, revision)
           SELECT item_id, id, refused, 'refused', 1 FROM work WHERE refused IS NOT NULL ORDER BY refused""",
        """INSERT INTO history (item_id, work_id, person_id, at, act, revision, note)
           SELECT item_id, id, person_id, started, 'skipped', 0, draft_note FROM work
           WHERE state = 'skipped' ORDER BY started""",
        """CREATE TABLE gold (item_id {ref} PRIMARY KEY REFERENCES item (id),
           person_id {ref} NOT NULL REFERENCES person (id), work_id {ref} REFERENCES work (id),
           verdict TEXT NOT NULL, edited TEXT, ratio {real}, note TEXT, at {real} NOT NULL)""",
        """CREATE TABLE practice (item_id {ref} PRIMARY KEY REFERENCES item (id), verdict TEXT NOT NULL,
           edited TEXT, explanation TEXT)""",
    ],
]
