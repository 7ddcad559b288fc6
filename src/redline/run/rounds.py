"""``redline rounds``: sample the last policy, correct its answers, train on all edits so far, and again.

    runs/NAME/
      1/ 2/ ...          each round: answers.jsonl, edits.jsonl, all.jsonl (every edit so far), run/ (its run)
      rounds.json        each round's win rates over the first model and over the last round
      report.html        the same, drawn

Every step of a round writes a file that appears whole; what is there is not made again, so the command goes
on where it stopped.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from redline.console import print_json, say
from redline.data.check import Rejects
from redline.data.files import read_json, read_jsonl, whole_file, write_json, write_jsonl
from redline.data.read import read
from redline.data.records import Edit, Prompt, ToEdit
from redline.data.settings import Source
from redline.errors import UserError
from redline.judge.compare import compare
from redline.judge.judges import judge_of
from redline.judge.systems import read_responses
from redline.recipe import Recipe, as_yaml, check, check_recipe, read_plain
from redline.report.rounds import write_rounds
from redline.report.summary import print_summary
from redline.run.files import RunFiles
from redline.run.run import Run
from redline.run.settings import Rounds
from redline.sampling.command import sample_command
from redline.types import JsonObject


@dataclass(frozen=True)
class Round:
    """What came of a round: how many edits it learned from, how many of them are new, and the win rates with
    95 % intervals."""

    round: int
    edits: int
    new: int
    over_first: float
    over_first_ci95: tuple[float, float]
    over_last: float
    over_last_ci95: tuple[float, float]


def rounds_command(path: Path, overrides: list[str], out: Path | None, as_json: bool = False) -> list[Round]:
    """Run the rounds of a recipe that are not done yet, print each one's summary, or at the end the figures
    of all as JSON. Returns those that are done.

    Raises UserError for a recipe that cannot be used, before anything is sampled or trained.
    """
    settings = check(read_plain(path, overrides), Rounds, str(path))
    folder = out or Path("runs") / settings.name
    recipe_path = path.parent / settings.recipe
    recipe = check_recipe(read_plain(recipe_path), str(recipe_path))
    if recipe.data.edits is None:
        raise UserError(f"{recipe_path}: rounds begin with edits. Give `data.edits`.")
    if recipe.data.eval_prompts is None:
        raise UserError(
            f"{recipe_path}: rounds are compared on the same prompts, and the edits change. Give "
            "`data.eval_prompts`."
        )
    work = _Work(settings, recipe, folder)
    done: list[Round] = []
    for number in range(1, settings.rounds + 1):
        if not work.edits(number):
            break
        done.append(work.train(number, as_json))
        _write(done, folder)
    if as_json:
        print_json(_plain(done))
    return done


class _Work:
    """The steps of a round, each passed over where its file is there."""

    def __init__(self, settings: Rounds, recipe: Recipe, folder: Path):
        self._settings, self._recipe, self._folder = settings, recipe, folder
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / "rounds.yaml") as text:
            text.write(as_yaml(settings))

    def _files(self, number: int) -> RunFiles:
        return RunFiles(self._folder / str(number) / "run")

    def edits(self, number: int) -> bool:
        """Make ``all.jsonl`` of a round; False where people have still to correct the answers."""
        here = self._folder / str(number)
        here.mkdir(exist_ok=True)
        if (here / "all.jsonl").exists():
            return True
        if number == 1:
            assert self._recipe.data.edits is not None  # checked when the command began
            with Rejects(here / "all.rejects.jsonl") as rejects:
                write_jsonl(here / "all.jsonl", read(self._recipe.data.edits, Edit, rejects))
            return True
        self._sample(number, here)
        if not (here / "edits.jsonl").exists() and not self._correct(number, here):
            return False
        new = _renamed(number, read(Source(path=str(here / "edits.jsonl")), Edit, Rejects()))
        before = read_jsonl(self._folder / str(number - 1) / "all.jsonl", Edit)
        write_jsonl(here / "all.jsonl", [*before, *new])
        return True

    def _sample(self, number: int, here: Path) -> None:
        """The last policy's answers to this round's prompts."""
        prompts = here / "prompts.jsonl"
        if not prompts.exists():
            every = list(read(self._settings.prompts, Prompt, Rejects()))
            if not every:
                raise UserError(f"{self._settings.prompts.path}: holds no prompts.")
            size = min(self._settings.draw.limit or len(every), len(every))
            first = (number - 2) * size
            turn = [every[place % len(every)] for place in range(first, first + size)]
            write_jsonl(prompts, turn)
        last, draw = self._files(number - 1), self._settings.draw
        sample_command(
            str(last.policy.folder),
            Source(path=str(prompts)),
            here / "answers.jsonl",
            draw.sampling,
            n=draw.n,
            worst_by=str(last.reward.folder) if draw.n > 1 else None,
            seed=self._settings.seed + number,
        )

    def _correct(self, number: int, here: Path) -> bool:
        """The edits of the answers, by whom the recipe says; False where people have to make them first."""
        answers, edits = here / "answers.jsonl", here / "edits.jsonl"
        if self._settings.edit == "people":
            say(
                f"round {number}: the answers to correct are in {answers}. Have people correct them:\n"
                f"  redline annotate {answers} --db sqlite:///{here / 'edits.db'} --annotators NAMES\n"
                f"  redline export --db sqlite:///{here / 'edits.db'} --out {edits} --accepted\n"
                "and give this command again."
            )
            return False
        from redline.edit.llm import edit_pairs

        made = here / "made.jsonl"
        counts = edit_pairs(
            list(read(Source(path=str(answers)), ToEdit, Rejects())), made, self._settings.edit
        )
        if counts.failed:
            raise UserError(
                f"round {number}: {len(counts.failed)} answers have no edit, because the editor did not "
                "answer. The same command asks again."
            )
        if counts.accepted == counts.no_change:
            raise UserError(
                f"round {number}: the editor corrected none of {counts.pairs} answers. See {made} and the "
                "rejects beside it, and change `edit`."
            )
        made.replace(edits)
        return True

    def train(self, number: int, quiet: bool = False) -> Round:
        """Train on all edits so far and measure: the run of a round. ``quiet`` prints no summary."""
        here, files = self._folder / str(number), self._files(number)
        edits = list(read_jsonl(here / "all.jsonl", Edit))
        plain = self._recipe.model_dump(exclude_unset=True)
        plain["name"] = f"{self._settings.name}-{number}"
        plain["data"]["edits"] = {"path": str(here / "all.jsonl")}
        if number > 1:
            plain["model"] = {**plain.get("model", {}), "name": str(self._files(number - 1).policy.folder)}
        recipe = check_recipe(plain, f"round {number}")
        say(f"round {number} of {self._settings.rounds}: {len(edits)} edits")
        outcome = Run(recipe, files.folder).go(None)
        if "report" in outcome.did and not quiet:
            print_summary(files.folder, files.report)
        last = read_json(files.winrate)
        first = last if number == 1 else self._over_first(number, recipe)
        before = 0
        if number > 1:
            before = sum(1 for _ in read_jsonl(self._folder / str(number - 1) / "all.jsonl", Edit))
        return Round(
            round=number,
            edits=len(edits),
            new=len(edits) - before,
            over_first=first["win_rate"],
            over_first_ci95=tuple(first["ci95"]),
            over_last=last["win_rate"],
            over_last_ci95=tuple(last["ci95"]),
        )

    def _over_first(self, number: int, recipe: Recipe) -> JsonObject:
        """The policy of a round against the model that the first round began with."""
        files = self._files(number)
        return compare(
            read_responses(files.responses("policy")),
            read_responses(self._files(1).responses("reference")),
            judge_of(recipe.compare),
            files.verdict_cache,
            recipe.seed,
            names=("policy", "first"),
        ).as_json()


def _renamed(number: int, edits: Iterator[Edit]) -> Iterator[Edit]:
    """A round's edits under ids of their own: later rounds may ask the same prompts again."""
    for edit in edits:
        yield edit.model_copy(update={"id": f"round-{number}/{edit.id}"})


def _write(done: list[Round], folder: Path) -> None:
    write_json(folder / "rounds.json", _plain(done))
    write_rounds(folder)


def _plain(done: list[Round]) -> JsonObject:
    return {"rounds": [asdict(one) for one in done]}
