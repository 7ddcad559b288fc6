"""The state of a run: which stages are done, and with which settings."""

from dataclasses import dataclass
from datetime import date
from typing import Any

from redline.data.files import read_json, write_json
from redline.errors import UserError
from redline.run.depends import Settings, digest
from redline.run.files import RunFiles
from redline.types import JsonObject


@dataclass(frozen=True)
class Done:
    """A finished stage: the settings that its result depends on, the seconds it took, and the run it was
    taken over from, if it was; the date on which it was finished and the machine, empty where an earlier
    version of Redline did not note them."""

    settings: Settings
    seconds: float
    taken_from: str | None = None
    date: str = ""
    machine: str = ""

    @property
    def digest(self) -> str:
        """What tells these settings from others."""
        return digest(self.settings)


class State:
    """The finished stages of the run with ``files``, in state.json; the stage under way, in begun.json."""

    def __init__(self, files: RunFiles):
        self.files = files
        plain = read_json(files.state) if files.state.exists() else {}
        self.done: dict[str, Done] = {name: _read(files, name, entry) for name, entry in plain.items()}

    @property
    def under_way(self) -> tuple[str, Settings] | None:
        """The stage that was begun and not finished, and its settings."""
        if not self.files.begun.exists():
            return None
        begun = read_json(self.files.begun)
        return begun["stage"], begun["settings"]

    def begin(self, stage: str, settings: Settings) -> None:
        """Note that a stage is begun."""
        write_json(self.files.begun, {"stage": stage, "settings": settings})

    def finish(self, stage: str, done: Done) -> None:
        """Note that a stage is done."""
        self.done[stage] = done
        self.write()
        self.files.begun.unlink(missing_ok=True)

    def forget(self, stage: str) -> None:
        """Note that a stage is no longer done, or begun."""
        self.done.pop(stage, None)
        self.write()
        if self.under_way and self.under_way[0] == stage:
            self.files.begun.unlink()

    def write(self) -> None:
        """Write state.json."""
        write_json(self.files.state, {name: _plain(entry) for name, entry in self.done.items()})


def started_on(files: RunFiles) -> str:
    """The date on which a run began (``2026-11-30``), noted when it is first asked for."""
    if not files.started.exists():
        write_json(files.started, {"date": str(date.today())})
    return str(read_json(files.started)["date"])


def _read(files: RunFiles, stage: str, entry: Any) -> Done:
    settings = entry.get("settings") if isinstance(entry, dict) else None
    if not isinstance(settings, dict):
        raise UserError(
            f"{files.state}: the stage `{stage}` was done by an earlier version of Redline, which kept no "
            f"settings. Choose another --out; edits that an LLM made can be taken from {files.data('edits')} "
            "as `data.edits`."
        )
    return Done(
        settings,
        float(entry["seconds"]),
        entry.get("from"),
        str(entry.get("date", "")),
        str(entry.get("machine", "")),
    )


def _plain(done: Done) -> JsonObject:
    plain: JsonObject = {"settings": done.settings, "seconds": done.seconds}
    optional = {"from": done.taken_from, "date": done.date, "machine": done.machine}
    return plain | {key: value for key, value in optional.items() if value}
