"""A run's folder: the stages of a recipe in order, which of them are done, and what comes next."""

import gc
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redline.console import console
from redline.data.check import Rejects, problem
from redline.data.files import read_json, read_jsonl, whole_file, write_json, write_jsonl
from redline.data.read import read
from redline.data.records import Edit, Labels, Pair, Prompt, Response, as_text
from redline.data.settings import Source
from redline.engine.processes import installed, this_process, wait_for_everyone
from redline.engine.settings import Model
from redline.errors import UserError
from redline.judge.settings import JudgedBy
from redline.recipe import Recipe, as_yaml, load_recipe
from redline.run.folder import SHARED, alone_in, finished_stages, link, made_with
from redline.sampling.settings import Sampling
from redline.urls import without_login, without_logins

if TYPE_CHECKING:
    from redline.judge.protocol import Judge
    from redline.policy.watch import Gold

TRAINING = ("sft", "reward", "policy")
NO_MATTER = {  # keys that change no result
    "edit": ("concurrency", "rate", "retries", "timeout", "price_in", "price_out"),
    "compare": ("concurrency",),
}


def run_recipe(path: Path, overrides: list[str], out: Path | None = None, only: str | None = None) -> Path:
    """Run every stage that is not done yet, or only the stage ``only`` (after data and labels); returns the
    run's folder."""
    recipe = load_recipe(path, overrides)
    run = Run(recipe, out or Path("runs") / recipe.name)
    run.go(only)
    return run.folder


class Run:
    """One run. Each stage writes into the folder and is noted in state.json when it is done, with the
    settings it was done with."""

    def __init__(self, recipe: Recipe, folder: Path):
        self.recipe, self.folder = recipe, folder
        self._tokenizer: Any = None
        self.stages: dict[str, Callable[[], None]] = {
            "data": self._data,
            "edit": self._edit,
            "label": self._label,
            "sft": self._sft,
            "reward": self._reward,
            "policy": self._policy,
            "compare": self._compare,
            "report": self._report,
        }
        if recipe.data.edits is not None:
            del self.stages["edit"]
        if recipe.sft is None:
            del self.stages["sft"]
        if not recipe.trains_reward:
            del self.stages["reward"]
        if recipe.direct is not None and recipe.direct.method == "best_of_n":
            del self.stages["policy"]

    def go(self, only: str | None = None, others: Iterable[Path] = ()) -> None:
        """Run what is not done and cannot be taken over from the folders of ``others``.

        Raises UserError when a finished stage was done with other settings, or when another process works in
        the folder.
        """
        if only is not None and only not in self.stages:
            raise UserError(
                f"{self.recipe.name}: this recipe has no stage `{only}` (it has {', '.join(self.stages)}). "
                + ("Add an `sft:` section." if only == "sft" else "")
            )
        with alone_in(self.folder):
            self.take_over(others)
            self._go(only)

    def _go(self, only: str | None) -> None:
        installed(self.recipe.trackers)  # what is missing is said before any work
        state = self._state()
        self._check(state)
        # the main process writes the state as it goes: all have to begin with the same one
        wait_for_everyone()
        main = this_process().is_main_process
        if main:
            with whole_file(self.folder / "recipe.yaml") as out:
                out.write(as_yaml(self.recipe))
        for number, (name, stage) in enumerate(self.stages.items(), 1):
            if name in state:
                if name == only:
                    break
                continue
            if only is not None and name in TRAINING and name != only:
                if list(self.stages).index(name) < list(self.stages).index(only):
                    raise UserError(
                        f"{self.folder}: the stage `{name}` comes before `{only}` and is not done. "
                        f"Run: redline train {name} with the same recipe and --out."
                    )
                break
            console.print(f"[bold]{number}/{len(self.stages)} {name}[/bold]", highlight=False)
            start = time.monotonic()
            if main or name in TRAINING:
                stage()
                _free_memory()
            wait_for_everyone()
            state[name] = {"settings": self._settings(name), "seconds": round(time.monotonic() - start, 1)}
            if main:
                write_json(self.folder / "state.json", state)
                self._drop_checkpoints(name)
            if name == only:
                break

    def is_done(self, stage: str) -> bool:
        """Whether a stage is done, with the settings that the recipe has now."""
        return bool(self._state().get(stage, {}).get("settings") == self._settings(stage))

    def missing(self, others: Iterable[Path] = ()) -> set[tuple[str, str]]:
        """The stages that runs may have in common and that are done neither here nor in the folders of
        ``others``, each with the hash of its settings."""
        done = self._state()
        wanted = {(name, self._settings(name)) for name in self.stages if name in SHARED and name not in done}
        return wanted - {(name, settings) for _, name, settings, _ in finished_stages(others)}

    def take_over(self, others: Iterable[Path]) -> None:
        """Take over from the folders of other runs the stages that they did with the same settings, as hard
        links.

        Raises UserError when a finished stage was done with other settings.
        """
        state = self._state()
        self._check(state)
        for other, name, settings, entry in finished_stages(others):
            if name in self.stages and name not in state and settings == self._settings(name):
                if (
                    name == "data" and "edit" in self.stages
                ):  # edits under way lie there too, and are appended to
                    continue
                link(other / SHARED[name], self.folder / SHARED[name])
                state[name] = {"from": str(other), **entry}
                write_json(
                    self.folder / "state.json",
                    {stage: state[stage] for stage in self.stages if stage in state} | state,
                )

    def _state(self) -> dict[str, Any]:
        path = self.folder / "state.json"
        return read_json(path) if path.exists() else {}

    def _check(self, state: dict[str, Any]) -> None:
        for name in self.stages:
            if name in state and state[name]["settings"] != self._settings(name):
                raise UserError(
                    f"{self.folder}: its stage `{name}` was done with another recipe. Choose another --out, "
                    f"put the recipe back as {self.folder / 'recipe.yaml'} has it, or delete the folder to "
                    "start over."
                )

    def _settings(self, stage: str) -> str:
        """A hash of all that a stage's result depends on: its own section and those of the stages before it,
        the seed from where anything is drawn at random, and the model whose tokens labels are in. Another
        run's reward model counts as its settings, wherever it lies, and what changes no result, logins of
        URLs among it, counts as if nobody had set it."""
        direct = ["direct"] if self.recipe.direct else []
        sections = {
            "data": ["data"],
            "edit": ["edit"],
            "label": ["label"],
            "sft": ["seed", "sft"],
            "reward": ["seed", "reward"],
            "policy": ["seed", "policy", *direct],
            "compare": ["seed", "policy", *direct, "compare"],
            "report": ["name"],
        }
        names = ["model"]
        for name in self.stages:
            names += sections[name]
            if name == stage:
                break
        plain = self.recipe.model_dump(include=set(names))
        for section, keys in NO_MATTER.items():
            if plain.get(section):
                fields = type(getattr(self.recipe, section)).model_fields
                plain[section] |= {key: fields[key].default for key in keys}
        for term in plain.get("policy", {}).get("reward", []):
            term["model"] = term["model"] and made_with(term["model"])
        if "label" in names:
            plain["labelled_for"] = self._labelled_for.model_dump()
        return hashlib.sha256(without_logins(json.dumps(plain, sort_keys=True)).encode()).hexdigest()[:16]

    @property
    def _labelled_for(self) -> Model:
        """The model that learns from the labels, whose tokenizer they are in."""
        return (self.recipe.reward.model if "reward" in self.stages else None) or self.recipe.model

    @property
    def model(self) -> Model:
        """The model that reward and policy start from: the recipe's, or what SFT made of it."""
        if self.recipe.sft is None:
            return self.recipe.model
        return self.recipe.model.model_copy(update={"name": str(self.folder / "sft"), "revision": None})

    def _data(self) -> None:
        """Read every source into data/, checked, with what was left out beside it."""
        data, folder = self.recipe.data, self.folder / "data"
        sources: list[tuple[str, Source | None, Any]] = [
            ("pairs", data.pairs if data.edits is None else None, Pair),
            ("edits", data.edits, Edit),
            ("validation", data.validation, Edit),
            ("test", data.test, Edit),
            ("prompts", data.prompts, Prompt),
            ("eval_prompts", data.eval_prompts, Prompt),
        ]
        for name, source, kind in sources:
            if source is None:
                continue
            refuse = self._over_long if kind is Prompt else None
            with Rejects(folder / f"{name}.rejects.jsonl") as rejects:
                rejects.kept = write_jsonl(
                    folder / f"{name}.jsonl", read(source, kind, rejects, refuse=refuse)
                )
                rejects.report(name)
            if not rejects.kept:
                raise UserError(f"data.{name}: {source.path} gave no usable record ({rejects.summary()}).")

    def _over_long(self, prompt: Prompt) -> str | None:
        """Why a prompt is left out, if it is (edits' prompts are checked when they are labelled)."""
        from redline.data.chat_template import CannotRender
        from redline.data.tokenization import encode_prompt

        if self._tokenizer is None:
            from redline.data.tokenization import load_tokenizer

            model = self.recipe.model
            self._tokenizer = load_tokenizer(model.name, model.trust_remote_code, model.revision)
        limit = self.recipe.data.max_prompt_tokens
        try:
            return (
                f"prompt longer than {limit} tokens"
                if len(encode_prompt(self._tokenizer, prompt.prompt)) > limit
                else None
            )
        except CannotRender as error:
            return str(error)

    def _edit(self) -> None:
        from redline.edit.llm import edit_pairs

        assert self.recipe.edit is not None  # the recipe was checked
        pairs = list(read_jsonl(self.folder / "data/pairs.jsonl", Pair))
        edit_pairs(pairs, self.folder / "data/edits.jsonl", self.recipe.edit)

    def _label(self) -> None:
        """Label the edits; hold a share of them out for validation, unless the recipe names a source."""
        from redline.data.tokenization import load_tokenizer
        from redline.label.stage import label_edits

        data, backbone = self.recipe.data, self._labelled_for
        tokenizer = load_tokenizer(backbone.name, backbone.trust_remote_code, backbone.revision)

        def label(name: str, edits: Iterator[Edit]) -> int:
            with Rejects(self.folder / f"labels/{name}.rejects.jsonl") as rejects:
                usable = _usable(edits, rejects, name)
                made = label_edits(
                    usable,
                    tokenizer,
                    self.recipe.label.unit,
                    data.max_response_tokens,
                    data.over_long,
                    data.max_prompt_tokens,
                    rejects,
                    name,
                )
                rejects.kept = write_jsonl(self.folder / f"labels/{name}.jsonl", made)
                rejects.report(f"labels/{name}")
            return rejects.kept

        held_out = data.validation is None
        counts = {
            "train": label(
                "train", (edit for edit in self._edits("edits") if not (held_out and self._is_held_out(edit)))
            ),
            "validation": label(
                "validation",
                (edit for edit in self._edits("edits") if self._is_held_out(edit))
                if held_out
                else self._edits("validation"),
            ),
        }
        if data.test is not None:
            counts["test"] = label("test", self._edits("test"))
        for name, count in counts.items():
            if not count:
                raise UserError(
                    f"data: no {name} edits are left after labelling. Give more edits, or another "
                    "data.validation_share."
                )

    def _edits(self, name: str) -> Iterator[Edit]:
        return read_jsonl(self.folder / f"data/{name}.jsonl", Edit)

    def _is_held_out(self, edit: Edit) -> bool:
        digest = hashlib.sha256(edit.id.encode("utf-8", "replace")).digest()
        return int.from_bytes(digest[:8], "big") / 2**64 < self.recipe.data.validation_share

    def _labels(self, name: str) -> list[Labels]:
        path = self.folder / f"labels/{name}.jsonl"
        return list(read_jsonl(path, Labels)) if path.exists() else []

    def _sft(self) -> None:
        from redline.direct.sft import train_sft

        assert self.recipe.sft is not None  # the stage is there only with its section
        data = self.recipe.data
        edits = [
            edit
            for edit in self._edits("edits")
            if data.validation is not None or not self._is_held_out(edit)
        ]
        train_sft(
            self.recipe.sft,
            self.recipe.model,
            edits,
            self.folder / "sft",
            seed=self.recipe.seed,
            max_tokens=data.max_prompt_tokens + data.max_response_tokens,
            trackers=self.recipe.trackers,
        )

    def _reward(self) -> None:
        from redline.reward.train import say, train_reward

        result = train_reward(
            self.recipe.reward,
            self.model,
            self._labels("train"),
            self._labels("validation"),
            self.folder / "reward",
            test=self._labels("test"),
            seed=self.recipe.seed,
            max_response=self.recipe.data.max_response_tokens,
            trackers=self.recipe.trackers,
        )
        say(result)

    def _policy(self) -> None:
        if self.recipe.direct is not None:
            from redline.direct.stage import train_direct

            train_direct(
                self.recipe.direct,
                self.recipe.policy,
                self.model,
                self._labels("train"),
                self.folder / "policy",
                max_response=self.recipe.data.max_response_tokens,
                seed=self.recipe.seed,
                trackers=self.recipe.trackers,
                gold=self._gold(),
            )
            return
        from redline.policy.ppo import train_policy

        reward = self.folder / "reward"
        prompts = self._prompts("prompts", "train")
        train_policy(
            self.recipe.policy,
            self.model,
            prompts,
            self.folder / "policy",
            reward=reward if reward.exists() else None,
            seed=self.recipe.seed,
            trackers=self.recipe.trackers,
            gold=self._gold(),
        )

    def _gold(self) -> "Gold | None":
        """The judge that watches the policy while it learns; None, and the console says why, where none can
        or may."""
        from redline.judge.cache import VerdictCache
        from redline.judge.judges import judge_of
        from redline.judge.protocol import Judge
        from redline.judge.verdicts import judge_pairs
        from redline.policy.watch import Gold

        how, compare, prompts = self.recipe.watch, self.recipe.compare, self._held_out()
        if not how.every:
            return None
        name = how.judge or compare.judge
        why = (
            "there are not two prompts that training has not seen"
            if len(prompts) < 2
            else "people cannot be asked while it learns"
            if name.startswith("human")
            else f"{name} at {without_login(compare.base_url)} may cost money; name it in watch.judge if "
            "it shall"
            if how.judge is None and compare.base_url
            else "vaderSentiment is not installed"
            if how.judge is None and name == "vader" and not find_spec("vaderSentiment")
            else ""
        )
        if why:
            console.print(f"no judge watches this training: {why}", highlight=False, markup=False)
            return None
        asked = compare if name == compare.judge else JudgedBy(judge=name)
        asked = asked.model_copy(update={"base_url": how.base_url or asked.base_url})
        judge: Judge | None = judge_of(asked) if this_process().is_main_process else None

        def prefer(policy: Sequence[Response], reference: Sequence[Response]) -> list[float | None]:
            assert judge is not None  # only the main process judges
            pairs = [(a.prompt, a.response, b.response) for a, b in zip(policy, reference, strict=True)]
            with VerdictCache(self.folder / "policy/watch/verdicts.sqlite") as cache:
                return [verdict.preference for verdict in judge_pairs(judge, pairs, cache, show=False)]

        return Gold(name, prefer, prompts[: how.prompts], how.every)

    def _held_out(self) -> list[Prompt]:
        """The comparison's prompts: those that training has not seen."""
        trained = {json.dumps(prompt.prompt) for prompt in self._prompts("prompts", "train")}
        asked = self._prompts("eval_prompts", "validation")
        found = [prompt for prompt in asked if json.dumps(prompt.prompt) not in trained]
        if len(found) < len(asked):
            console.print(
                f"{len(asked) - len(found):,} of the comparison's {len(asked):,} prompts are left out: "
                "training has them too",
                highlight=False,
            )
        return found

    def _prompts(self, name: str, labels: str) -> list[Prompt]:
        """The prompts of a source, or those of some labelled edits, each once."""
        path = self.folder / f"data/{name}.jsonl"
        found = (
            read_jsonl(path, Prompt)
            if path.exists()
            else (Prompt(id=record.id, prompt=record.prompt) for record in self._labels(labels))
        )
        once = {json.dumps(prompt.prompt): prompt for prompt in found if as_text(prompt.prompt).strip()}
        return list(once.values())

    def _compare(self) -> None:
        from redline.engine.models import for_training
        from redline.judge.compare import compare
        from redline.judge.judges import judge_of
        from redline.policy.evaluate import side_by_side
        from redline.reward.score import score_file
        from redline.sampling.open import open_sampler

        how, folder = self.recipe.compare, self.folder / "compare"
        judge = judge_of(how)
        prompts = self._held_out()
        if not prompts:
            raise UserError("compare: no prompts that training has not seen. Give data.eval_prompts.")
        sampling, seed = how.sampling or self.recipe.policy.sampling, self.recipe.seed + 1
        if self.recipe.direct is not None and self.recipe.direct.method == "best_of_n":
            a, b, guard = self._best_of_n(prompts[: how.limit], sampling, seed, judge)
        else:
            # as they were trained, but for 4-bit weights: a policy is saved whole, and would be rounded
            base = for_training(self.model, self.recipe.policy.adapt.lora_rank).model_copy(
                update={"load_in_4bit": False}
            )
            policy = base.model_copy(update={"name": str(self.folder / "policy"), "revision": None})
            sampler = open_sampler(self.recipe.policy.sampler)
            a, b, guard = side_by_side(policy, base, prompts[: how.limit], sampling, seed, sampler)
        write_jsonl(folder / "policy.jsonl", a)
        write_jsonl(folder / "reference.jsonl", b)
        if (self.folder / "reward").exists():  # for the report: what the reward model makes of both
            for name in ("policy", "reference"):
                score_file(
                    folder / f"{name}.jsonl", str(self.folder / "reward"), folder / f"{name}.scores.jsonl"
                )
        result = compare(
            a,
            b,
            judge,
            folder / "verdicts.sqlite",
            self.recipe.seed,
            folder / "verdicts.jsonl",
            ("policy", "reference"),
        )
        write_json(self.folder / "winrate.json", result.as_json() | guard)

    def _best_of_n(
        self,
        prompts: list[Prompt],
        sampling: Sampling,
        seed: int,
        judge: "Judge",
    ) -> tuple[list[Response], list[Response], dict[str, Any]]:
        """The best of n and the reference, judged also for smaller n: compare/curve.jsonl."""
        from redline.direct.best_of_n import best_of_n, kl_of
        from redline.judge.compare import compare
        from redline.sampling.open import open_sampler

        assert self.recipe.direct is not None  # it names the method
        own, folder = self.folder / "reward", self.folder / "compare"
        best, reference, guard = best_of_n(
            self.model,
            self.recipe.policy.reward,
            own if own.exists() else None,
            prompts,
            sampling,
            self.recipe.direct.n,
            seed,
            open_sampler(self.recipe.policy.sampler),
        )
        points = []
        for n, responses in best.items():
            found = compare(
                responses,
                reference,
                judge,
                folder / "verdicts.sqlite",
                seed,
                folder / f"best_of_{n}.verdicts.jsonl",
                (f"best of {n}", "reference"),
            )
            points.append(
                {
                    "n": n,
                    "gold": found.win_rate,
                    "gold_error": found.standard_error,
                    "gold_kl": kl_of(n),
                }
            )
        write_jsonl(folder / "curve.jsonl", points)
        return best[self.recipe.direct.n], reference, guard

    def _report(self) -> None:
        from redline.report.page import write_report
        from redline.report.summary import print_summary

        page = write_report(self.folder)
        print_summary(self.folder, page)

    def _drop_checkpoints(self, stage: str) -> None:
        """A finished stage needs its checkpoints no more."""
        shutil.rmtree(self.folder / stage / "checkpoints", ignore_errors=True)
        (self.folder / stage / "best.safetensors").unlink(missing_ok=True)


def _free_memory() -> None:
    """Let go of a finished stage's models: what holds itself in a circle stays until it is looked for."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _usable(edits: Iterator[Edit], rejects: Rejects, name: str) -> Iterator[Edit]:
    """Edits that say something: an LLM's "no change needed" teaches nothing, and is counted."""
    for edit in edits:
        if reason := problem(edit):
            rejects.add(reason, name, None, edit)
        else:
            yield edit
