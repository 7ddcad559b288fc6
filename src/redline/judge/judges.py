"""Judges: who says which of two responses is better. One small interface, and ``load_judge`` that finds one
by its name."""

import difflib
import hashlib
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import cast

from redline.data.files import read_jsonl
from redline.data.records import Record, Text, as_text
from redline.errors import UserError
from redline.functions import is_function_name, load_function
from redline.judge.length import NEUTRAL
from redline.judge.protocol import Judge, JudgeFunction, ScoreJudge, count_failures
from redline.judge.settings import JudgedBy

NAMED = ("vader", "length", "human:FILE")
LLMS = r"(gpt|o\d|chatgpt|claude|gemini|mistral|deepseek|qwen|llama|grok|command)[-.\d]"  # how they begin


class FunctionJudge:
    """A judge from a Python function ``(prompts, a, b) -> preferences for a``, lists of equal length.

    A preference is a number from 0 (b) to 1 (a), 0.5 for a tie, None for no verdict. Each pair is shown in
    both orders.
    """

    both_orders = True
    concurrency = 1
    batch_size = 256
    length_prior: tuple[float, float] | None = NEUTRAL

    def __init__(self, name: str, function: JudgeFunction):
        self.name, self.function = name, function
        code = hashlib.sha256(_source(name, function).encode()).hexdigest()[:16]
        self.settings: dict[str, object] = {"judge": name, "code": code}
        self.failures: dict[str, int] = {}

    def prefer(self, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text]) -> list[float | None]:
        verdicts = self._call(list(prompts), list(a), list(b))
        if len(verdicts) != len(prompts):
            raise UserError(
                f"judge {self.name}: it returned {len(verdicts)} preferences for {len(prompts)} pairs."
            )
        for verdict in verdicts:
            if verdict is not None and not (isinstance(verdict, Real) and 0 <= float(verdict) <= 1):
                raise UserError(
                    f"judge {self.name}: {verdict!r} is no preference. Return numbers from 0 to 1, or None."
                )
        count_failures(self, "the function returned None", verdicts.count(None))
        return [None if verdict is None else float(verdict) for verdict in verdicts]

    def _call(self, prompts: list[Text], a: list[Text], b: list[Text]) -> list[float | None]:
        try:
            given = self.function(prompts, a, b)
            verdicts = list(given) if isinstance(given, Iterable) else None
        except UserError:
            raise
        except Exception as error:  # whatever the user's own function raises is the user's to mend
            raise UserError(
                f"judge {self.name}: raised {type(error).__name__}: {' '.join(str(error).split())}."
            ) from error
        if verdicts is None:
            raise UserError(
                f"judge {self.name}: it returned {type(given).__name__}. Return a list, one preference a "
                "pair."
            )
        return verdicts


class HumanVerdict(Record):
    """A person's verdict on a pair, as the blind comparison of ``redline annotate`` writes it: 1 a, 0 b, 0.5
    a tie."""

    prompt: Text
    a: Text
    b: Text
    preference: float


class HumanJudge:
    """People's verdicts from a file, found by their texts in either order; of several on one pair, the
    mean."""

    both_orders = False
    concurrency = 1
    batch_size = 256
    length_prior: tuple[float, float] | None = NEUTRAL

    def __init__(self, path: str | Path):
        self.name = f"human:{path}"
        self.failures: dict[str, int] = {}
        self._verdicts: dict[tuple[str, str, str], list[float]] = {}
        for number, row in enumerate(read_jsonl(path, HumanVerdict), 1):
            if not 0 <= row.preference <= 1:
                raise UserError(
                    f"{path}, record {number}: preference {row.preference:g} is not between 0 (b) and 1 (a)."
                )
            self._verdicts.setdefault(_key(row.prompt, row.a, row.b), []).append(row.preference)
            self._verdicts.setdefault(_key(row.prompt, row.b, row.a), []).append(1 - row.preference)
        content = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
        self.settings: dict[str, object] = {"judge": "human", "verdicts": content}

    def prefer(self, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text]) -> list[float | None]:
        means = [self._mean(_key(*pair)) for pair in zip(prompts, a, b, strict=True)]
        count_failures(self, "no person judged the pair", means.count(None))
        return means

    def _mean(self, key: tuple[str, str, str]) -> float | None:
        verdicts = self._verdicts.get(key)
        return sum(verdicts) / len(verdicts) if verdicts else None


def judge_of(section: JudgedBy) -> Judge:
    """The judge that a recipe's section names, as ``load_judge`` finds it."""
    return load_judge(
        section.judge,
        section.base_url,
        section.template,
        section.verdict,
        section.concurrency,
        section.api_key_env,
    )


def as_judge(judge: Judge | JudgeFunction | str) -> Judge:
    """A judge, from one, from its name, or from a function ``(prompts, a, b) -> preferences for a``."""
    if isinstance(judge, str):
        return load_judge(judge)
    if hasattr(judge, "prefer"):
        return cast(Judge, judge)
    name = getattr(judge, "__qualname__", type(judge).__name__)
    return FunctionJudge(name, cast(JudgeFunction, judge))


def load_judge(
    name: str,
    base_url: str | None = None,
    template: str | None = None,
    verdict: str = "json",
    concurrency: int = 8,
    api_key_env: str | None = None,
) -> Judge:
    """The judge of that name.

    ``vader``: the sentiment lexicon of vaderSentiment. ``length``: the longer response wins, a yardstick.
    ``human:FILE``: verdicts of people. ``module:function`` or ``file.py:function``: a Python function. With
    ``base_url``: an LLM at an OpenAI-compatible endpoint, with its ``template`` (a file, or the built-in
    one), ``verdict`` (json or token), ``concurrency`` and ``api_key_env``. Anything else: a reward model's
    folder or Hugging Face name. Raises UserError; a name that can be neither is not looked for anywhere.
    """
    if base_url:
        from redline.judge.llm import LlmJudge

        return LlmJudge(name, base_url, template, verdict, concurrency, api_key_env=api_key_env)
    if name == "vader":
        return _vader()
    if name == "length":
        return ScoreJudge("length", _characters, length_prior=None)
    if name == "human" or name.startswith("human:"):
        path = name.partition(":")[2]
        if not path:
            raise UserError("judge human: name the file with the verdicts, human:verdicts.jsonl.")
        return HumanJudge(path)
    if is_function_name(name):
        return FunctionJudge(name, load_function(name))
    check_model_name(name)
    from redline.judge.reward_model import reward_model_judge

    return reward_model_judge(name)


def check_model_name(name: str) -> None:
    """Raise UserError for the name of a judge that is no reward model's, nor any other's."""
    if "/" in name or Path(name).expanduser().exists():
        return
    if re.match(LLMS, name, re.IGNORECASE):
        raise UserError(
            f"judge {name}: an LLM judge needs the URL of its endpoint. Give base_url, for example "
            "https://api.openai.com/v1."
        )
    close = difflib.get_close_matches(name.partition(":")[0].lower(), NAMED, 1)
    hint = (
        f"Did you mean `{close[0]}`?" if close else "Give its folder, or its Hugging Face name (OWNER/NAME)."
    )
    raise UserError(f"judge {name}: there is no such judge. {hint} The named ones: {', '.join(NAMED)}.")


def _characters(prompts: Sequence[Text], responses: Sequence[Text]) -> list[float]:
    return [float(len(as_text(response))) for response in responses]


def _vader() -> Judge:
    try:
        from importlib.metadata import version

        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise UserError(
            "judge vader: vaderSentiment is not installed. Run: pip install vaderSentiment"
        ) from error
    analyzer = SentimentIntensityAnalyzer()

    def compound(prompts: Sequence[Text], responses: Sequence[Text]) -> list[float]:
        return [float(analyzer.polarity_scores(as_text(response))["compound"]) for response in responses]

    return ScoreJudge("vader", compound, {"version": version("vaderSentiment")})


def _source(name: str, function: JudgeFunction) -> str:
    """The text of the file that defines the function under its decorators, or the class of a callable object
    from the same file, so that a changed judge is not answered from the cache."""
    code: object = inspect.unwrap(function)
    place = name.rpartition(":")[0]
    if not inspect.isroutine(code) and type(code).__module__ in (place, Path(place).stem):
        code = next(filter(inspect.isfunction, vars(type(code)).values()), None)
    try:
        file = inspect.getsourcefile(inspect.unwrap(cast(Callable[..., object], code)))
        return Path(file or "").read_text(encoding="utf-8")
    except (OSError, TypeError):
        return repr(function)  # a builtin, or typed into a shell: there is no file


def _key(prompt: Text, a: Text, b: Text) -> tuple[str, str, str]:
    return as_text(prompt).strip(), as_text(a).strip(), as_text(b).strip()
