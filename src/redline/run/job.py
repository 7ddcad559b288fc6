"""What every stage is given: the recipe, the run's files, and what is read from them."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from redline.console import say
from redline.data.check import EQUAL, problem
from redline.data.files import read_jsonl
from redline.data.records import Edit, Feedback, Labels, Prompt, as_text
from redline.direct.settings import DirectBco
from redline.edit.settings import EditWith
from redline.engine.settings import Model
from redline.recipe import Recipe
from redline.run.files import RunFiles


@dataclass(frozen=True)
class Job:
    """A recipe and the files of its run."""

    recipe: Recipe
    files: RunFiles

    @property
    def model(self) -> Model:
        """The model that reward and policy start from: the recipe's, or what SFT made of it."""
        if self.recipe.sft is None:
            return self.recipe.model
        return self.recipe.model.model_copy(update={"name": str(self.files.sft.folder), "revision": None})

    @property
    def labelled_for(self) -> Model:
        """The model that learns from the labels, whose tokenizer they are in."""
        own = self.recipe.reward.model if self.recipe.trains_reward else None
        return own or self.recipe.model

    @property
    def selects_best_of_n(self) -> bool:
        """Whether the policy is the best of several responses, without training."""
        return self.recipe.direct is not None and self.recipe.direct.method == "best_of_n"

    @property
    def editor(self) -> EditWith:
        """Who edits. The recipe's own model edits with the recipe's chat template."""
        assert self.recipe.edit is not None  # the recipe was checked
        model, edit = self.recipe.model, self.recipe.edit
        if edit.base_url or edit.model != model.name or edit.chat_template_kwargs:
            return edit
        return edit.model_copy(update={"chat_template_kwargs": model.chat_template_kwargs})

    def edits(self, source: str = "edits") -> Iterator[Edit]:
        """The checked edits of a source."""
        return read_jsonl(self.files.data(source), Edit)

    def training_edits(self) -> Iterator[Edit]:
        """The edits without those that are held out for validation."""
        own = self.recipe.data.validation is not None
        return (edit for edit in self.edits() if own or not self.is_held_out(edit))

    def validation_edits(self) -> Iterator[Edit]:
        """The edits of the recipe's source, or else those that are held out."""
        if self.recipe.data.validation is not None:
            return self.edits("validation")
        return (edit for edit in self.edits() if self.is_held_out(edit))

    def thumbs(self) -> list[Feedback]:
        """The likes and dislikes that BCO learns from beside labelled edits: feedback, and a like for each
        response that an annotator left as it was."""
        if not isinstance(self.recipe.direct, DirectBco):
            return []
        liked = []
        for edit in self.training_edits() if self.recipe.has_edits else ():
            if problem(edit) == EQUAL:
                liked.append(Feedback(id=edit.id, prompt=edit.prompt, response=edit.edited, liked=True))
        told = [feedback for feedback in self._feedback() if not self._is_for_comparison(feedback)]
        return liked + told

    def _feedback(self) -> list[Feedback]:
        path = self.files.data("feedback")
        return list(read_jsonl(path, Feedback)) if path.exists() else []

    def _is_for_comparison(self, one: Feedback) -> bool:
        """Whether feedback is held out for its prompt: a share of it, where nothing else gives prompts to
        compare on."""
        data = self.recipe.data
        if self.recipe.has_edits or data.eval_prompts is not None:
            return False
        return self._is_in_share(json.dumps(one.prompt))

    def is_held_out(self, edit: Edit) -> bool:
        """Whether an edit is for validation, by a hash of its id."""
        return self._is_in_share(edit.id)

    def _is_in_share(self, text: str) -> bool:
        checksum = hashlib.sha256(text.encode("utf-8", "replace")).digest()
        return int.from_bytes(checksum[:8], "big") / 2**64 < self.recipe.data.validation_share

    def labels(self, name: str) -> list[Labels]:
        """The labelled edits of a set; none where there is no such set."""
        path = self.files.labels(name)
        return list(read_jsonl(path, Labels)) if path.exists() else []

    def training_prompts(self) -> list[Prompt]:
        """The prompts that a policy learns on."""
        return self._prompts("prompts", "train")

    def held_out_prompts(self) -> list[Prompt]:
        """The comparison's prompts: those that training has not seen."""
        trained = {json.dumps(prompt.prompt) for prompt in self.training_prompts()}
        asked = self._prompts("eval_prompts", "validation")
        unseen = [prompt for prompt in asked if json.dumps(prompt.prompt) not in trained]
        if len(unseen) < len(asked):
            say(
                f"{len(asked) - len(unseen):,} of the comparison's {len(asked):,} prompts are left out: "
                "training has them too"
            )
        return unseen

    def _prompts(self, source: str, labels: str) -> list[Prompt]:
        """The prompts of a source, or those of some labelled edits, each once."""
        path = self.files.data(source)
        if path.exists():
            prompts = list(read_jsonl(path, Prompt))
        elif not self.recipe.has_edits:
            held_out = labels == "validation"
            given = [one for one in self._feedback() if self._is_for_comparison(one) == held_out]
            prompts = [Prompt(id=one.id, prompt=one.prompt) for one in given]
        else:
            prompts = [Prompt(id=record.id, prompt=record.prompt) for record in self.labels(labels)]
        once = {json.dumps(prompt.prompt): prompt for prompt in prompts if as_text(prompt.prompt).strip()}
        return list(once.values())
