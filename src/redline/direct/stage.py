"""Policies without RL, from the same labelled edits: SFT on the edited side, FIGA, and DPO with TRL's
trainer.

They are the controls of a claim about PPO, so they train the same layers on the same tokens as PPO does, and
are watched by the same judge on the same prompts.
"""

import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from redline.console import console
from redline.data.records import Labels
from redline.data.tokenization import encode_prompt, load_tokenizer, token_ids, turn_end
from redline.direct.settings import Direct
from redline.embedded import quietly
from redline.engine.batching import pad
from redline.engine.checkpoints import guarding, newest_sealed, writing
from redline.engine.processes import installed, on_one_device, sharded_launch, this_process, wait_for_everyone
from redline.engine.saving import save
from redline.engine.settings import Model
from redline.engine.sharding import assemble, load_trained, trained_weights
from redline.engine.trunk import CACHE_BYTES
from redline.errors import UserError
from redline.policy.actor import ActorCritic
from redline.policy.files import PolicyFiles
from redline.policy.log import RunLog
from redline.policy.settings import Policy
from redline.policy.watch import Gold, Watch, Watched
from redline.sampling.open import open_sampler

POINTS = 6  # measurements of the gold score in a training, and checkpoints with them
SURE, UNSURE = (
    0.6,
    1.0,
)  # nats: FIGA's code penalises a removed token only where its loss lies between the two
AT_ONCE = 4  # edits (two rows each) in a pass


def weighted_loss(logprobs: Tensor, weights: Tensor) -> Tensor:
    """The mean of ``weight * -log p`` over the tokens whose weight counts: SFT, and FIGA's loss (Guo et al.
    2023). Shapes ``[N]``.

    Tokens of negative weight are pushed away. As in the authors' code, they count only where their ``-log p``
    lies within ``SURE`` and ``UNSURE``: below, they belong to the language; above, they are unlikely already,
    and the loss has no floor.
    """
    losses = -logprobs
    given = weights.where((weights > 0) | ((losses > SURE) & (losses < UNSURE)), 0.0)
    return (given * losses).sum() / (given != 0).sum().clamp(min=1)


def train_direct(
    recipe: Direct,
    policy: Policy,
    model: Model,
    labels: Sequence[Labels],
    out: Path,
    *,
    max_response: int = 512,
    seed: int = 0,
    trackers: Sequence[str] = (),
    gold: Gold | None = None,
) -> None:
    """Train ``model`` on labelled edits without RL and write the policy to ``out``, as PPO would.

    ``policy`` says which weights are trained and how responses are sampled. Responses of fewer than
    ``max_response`` tokens end with end-of-text; longer ones are cropped to so many, and do not. ``gold``
    measures ``POINTS`` times on the way, into out/log.jsonl and out/watch/. Continues from the last whole one
    of as many checkpoints when started again. Raises UserError when no edit is left to learn from, and for a
    checkpoint of other settings.
    """
    from transformers import set_seed

    if sharded_launch():
        raise UserError(
            f"direct.method={recipe.method} does not run sharded, by FSDP or DeepSpeed. Launch one process, "
            "or DDP (accelerate launch --multi_gpu)."
        )
    set_seed(seed)
    tokenizer = load_tokenizer(model.name, model.trust_remote_code, model.revision)
    actor = ActorCritic(model, policy.adapt)
    rows = [row for record in labels if (row := _row(record, tokenizer, max_response))]
    if left_out := len(labels) - len(rows):
        console.print(
            f"{left_out} of {len(labels)} edits are left out: within {max_response} tokens their two sides "
            "are the same",
            highlight=False,
        )
    if not rows:
        raise UserError(
            "direct: no edit is left whose two sides differ. Give more edits, or a larger "
            "data.max_response_tokens."
        )
    share = max(1, recipe.batch_size // this_process().num_processes)
    at_once = next(size for size in range(min(AT_ONCE, share), 0, -1) if share % size == 0)
    settings: dict[str, Any] = {
        "output_dir": str(PolicyFiles(out).checkpoints),
        "num_train_epochs": recipe.epochs,
        "learning_rate": recipe.lr,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": share // at_once,
        "seed": seed,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "save_steps": 1 / POINTS,
        "save_total_limit": 2,
        "report_to": installed(trackers) or "none",
        "logging_steps": 5,
        "bf16": False,
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.accelerator.is_available(),
        "accelerator_config": {
            "use_configured_state": True
        },  # else Trainer asks anew, and CPU processes stand alone
    }
    with quietly():
        trainer = (_dpo if recipe.method == "dpo" else _weighted)(recipe, actor, rows, tokenizer, settings)
    if gold is not None:
        watched = Watched(
            actor,
            actor,
            trainer.accelerator,
            tokenizer,
            policy,
            score=None,
            sampler=open_sampler(policy.sampler),
            updates=0,
            seed=seed,
            out=out,
        )
        trainer.add_callback(_Watching(gold, watched))
    same = {
        "direct": recipe.model_dump(),
        "adapt": policy.adapt.model_dump(),
        "model": model.name,
        "seed": seed,
        "edits": len(rows),
        "checksum_of_edits": zlib.crc32(json.dumps(rows).encode()),
    }
    trainer.add_callback(guarding(same, "direct"))
    with writing(out):
        trainer.train(resume_from_checkpoint=newest_sealed(PolicyFiles(out).checkpoints, same))
    assemble(trainer.accelerator, actor)
    if trainer.accelerator.is_main_process:
        if actor.peft is not None and "ref" in actor.peft.peft_config:
            actor.peft.delete_adapter("ref")  # TRL's copy of the untrained adapter
        save(actor.lm, actor.peft, tokenizer, out, model.name)
    wait_for_everyone()


def _row(record: Labels, tokenizer: Any, max_response: int) -> dict[str, list[int]] | None:
    """An edit as token ids and labels, end-of-text (of label 0) included; None when its two sides are the
    same."""
    rejected, edited = token_ids(record, tokenizer)
    if rejected == edited:
        return None
    row = {"prompt_ids": encode_prompt(tokenizer, record.prompt)}
    last = None if isinstance(record.prompt, str) else turn_end(tokenizer)
    last = tokenizer.eos_token_id if last is None else last
    for side, ids, labels in (
        ("chosen", edited, record.edited_labels),
        ("rejected", rejected, record.rejected_labels),
    ):
        end = [last] if len(ids) < max_response and last is not None else []
        row |= {
            f"{side}_ids": [*ids[:max_response], *end],
            f"{side}_labels": [*labels[:max_response], *(0 for _ in end)],
        }
    return row


def _weighted(
    recipe: Direct,
    actor: ActorCritic,
    rows: list[dict[str, list[int]]],
    tokenizer: Any,
    settings: dict[str, Any],
) -> Trainer:
    """SFT gives every token of the edited side weight 1. FIGA gives it to what was put in alone, and
    ``-penalty`` to what was removed from the rejected side. Passes are PPO's: the frozen layers' states are
    computed once, the output embedding runs on tokens of weight only."""
    edits = [
        found for row in rows if (found := _sides(row, recipe.penalty if recipe.method == "figa" else None))
    ]
    if not edits:
        raise UserError("direct: the edits put in and remove nothing that can be learned. Give more edits.")
    size = (
        sum(len(side.ids) for edit in edits for side in edit)
        * actor.value_head.in_features
        * actor.lm.dtype.itemsize
    )
    trainer = _Weighted(
        model=actor,
        args=on_one_device(
            TrainingArguments(**settings, ddp_find_unused_parameters=True)
        ),  # the critic's head
        train_dataset=cast(Any, edits),
        data_collator=cast(Any, lambda batch: _batch(batch, actor, size <= CACHE_BYTES)),
    )
    trainer.model_accepts_loss_kwargs = (
        False  # the loss is a mean: Trainer has to divide by the accumulated steps
    )
    return trainer


@dataclass
class _Side:
    """A response after its prompt: token ids ``[T]``, the places of the tokens that have weight, and their
    weights ``[n]``.

    ``states`` enter the cut, once they are known.
    """

    ids: Tensor
    places: Tensor
    weights: Tensor
    states: Tensor | None = None


def _sides(row: dict[str, list[int]], penalty: float | None) -> list[_Side]:
    """The sides of an edit that have tokens to learn from; with a ``penalty`` FIGA's, without the edited side
    as a whole."""
    before = len(row["prompt_ids"])
    wanted = [("chosen_ids", [1.0] * len(row["chosen_ids"]))]
    if penalty is not None:
        wanted = [
            ("chosen_ids", [float(label > 0) for label in row["chosen_labels"]]),
            ("rejected_ids", [penalty * min(label, 0) for label in row["rejected_labels"]]),
        ]
    found = []
    for name, weights in wanted:
        places = [
            before + place for place, weight in enumerate(weights) if weight and before + place
        ]  # none predicts the first
        if places:
            found.append(
                _Side(
                    torch.tensor(row["prompt_ids"] + row[name]),
                    torch.tensor(places),
                    torch.tensor([weights[place - before] for place in places]),
                )
            )
    return found


def _batch(edits: list[list[_Side]], actor: ActorCritic, keep: bool) -> dict[str, Tensor]:
    """What ``ActorCritic.forward`` takes, and the weights; ``keep`` the states for the next time."""
    sides, states = [side for edit in edits for side in edit], []
    for side in sides:
        states.append(
            actor.split.lower(side.ids[None].to(actor.value_head.weight.device))[0].cpu()
            if side.states is None
            else side.states
        )
        side.states = states[-1] if keep else None
    return {
        "states": pad(states),
        "rows": torch.cat([torch.full((len(side.places),), row) for row, side in enumerate(sides)]),
        "columns": torch.cat([side.places - 1 for side in sides]),
        "targets": torch.cat([side.ids[side.places] for side in sides]),
        "weights": torch.cat([side.weights for side in sides]),
    }


class _Resumable(Trainer):
    """Keeps in its checkpoints the weights that are trained: the others are the backbone's."""

    def save_model(self, output_dir: Any = None, _internal_call: bool = False) -> None:
        weights = trained_weights(cast(Any, self.model))  # by all processes together
        if self.args.should_save:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            save_file(weights, Path(output_dir) / "model.safetensors")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(cast(Any, self.model), load_file(Path(resume_from_checkpoint) / "model.safetensors"))


class _Weighted(_Resumable):
    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        weights = inputs.pop("weights")
        logprobs, _, _ = model(**inputs, temperature=1.0)
        loss = weighted_loss(logprobs, weights)
        return (loss, logprobs) if return_outputs else loss


def _dpo(
    recipe: Direct,
    actor: ActorCritic,
    rows: list[dict[str, list[int]]],
    tokenizer: Any,
    settings: dict[str, Any],
) -> Trainer:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class Tokenized(_Resumable, DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset  # our ids: TRL's own would put end-of-text behind cropped responses too

    ids = [{name: row[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")} for row in rows]
    with actor.reference() as reference:
        copy = None if actor.peft else reference.model
    trainer: Trainer = Tokenized(
        model=actor.peft or actor.lm,
        ref_model=copy,
        args=cast(
            Any,
            on_one_device(
                DPOConfig(**settings, beta=recipe.beta, max_length=None, gradient_checkpointing=False)
            ),
        ),
        train_dataset=Dataset.from_list(ids),
        processing_class=tokenizer,
    )
    return trainer


class _Watching(TrainerCallback):
    """The gold score on the way, in the files that a PPO training writes."""

    def __init__(self, gold: Gold, watched: Watched):
        self.gold, self.watched, self.seconds = gold, watched, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.watch = Watch(
            replace(self.gold, every=max(1, -(-state.max_steps // POINTS))),
            replace(self.watched, updates=state.max_steps),
        )
        self.log = RunLog(self.watched.out, state.global_step, state.is_world_process_zero)
        self.watch.begin(state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.begun = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.seconds += time.perf_counter() - self.begun
        model.eval()
        found = self.watch.after(state.global_step)
        model.train()
        if found:
            self.log.metrics({"update": state.global_step, "seconds": self.seconds, **found})
            self.seconds = 0.0
