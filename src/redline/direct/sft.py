"""Supervised fine-tuning with TRL's trainer: the optional first stage, whose result becomes the run's
model."""

import json
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from redline.data.chat_template import split_tools, template_kwargs
from redline.data.records import Edit, Text
from redline.direct.files import SftFiles
from redline.direct.settings import Sft
from redline.embedded import quietly
from redline.engine.checkpoints import guarding, newest_sealed, writing
from redline.engine.models import for_training, load_causal_lm, tokenizer_of
from redline.engine.processes import installed, on_one_device, this_process, wait_for_everyone
from redline.engine.saving import save
from redline.engine.settings import Model
from redline.engine.sharding import assemble
from redline.errors import UserError
from redline.types import JsonObject, Network


def train_sft(
    recipe: Sft,
    model: Model,
    edits: Sequence[Edit],
    out: Path,
    *,
    max_tokens: int = 1024,
    seed: int = 0,
    trackers: Sequence[str] = (),
) -> None:
    """Imitate the edited (or chosen) responses, prompts masked, and write a plain model folder to ``out``,
    adapters merged in and beside.

    Continues from TRL's own last checkpoint that is whole when started again. Raises UserError when an edit
    lacks the response to imitate, and for a checkpoint of other settings.
    """
    examples = _examples(recipe, edits)
    lm = load_causal_lm(for_training(model, recipe.lora_rank))
    tokenizer = tokenizer_of(model)
    rows = _with_shared_columns(examples, tokenizer)
    settings = {
        "sft": recipe.model_dump(),
        "model": model.name,
        "edits": len(rows),
        "max_tokens": max_tokens,
        "seed": seed,
        "checksum_of_edits": zlib.crc32(json.dumps(rows).encode()),
    }
    work = SftFiles(out).work
    with writing(work):
        work.mkdir(parents=True, exist_ok=True)
    with quietly():
        arguments = _arguments(recipe, work, max_tokens, seed, trackers)
        trainer = _trainer(recipe, lm, tokenizer, rows, arguments, guarding(settings, "sft"))
    with writing(work):
        trainer.train(resume_from_checkpoint=newest_sealed(work, settings))
    _write(trainer, recipe, lm, tokenizer, out, model.name)


def _examples(recipe: Sft, edits: Sequence[Edit]) -> list[JsonObject]:
    """The prompt and the response to imitate, of each edit. Raises UserError where there is no response."""
    rows = []
    for edit in edits:
        response = edit.edited if recipe.responses == "edited" else edit.chosen
        if response is None:
            raise UserError(
                f"edit {edit.id}: has no `chosen` response, which sft.responses=chosen needs. Use edited."
            )
        rows.append(_row(edit.prompt, response))
    return rows


def _with_shared_columns(rows: list[JsonObject], tokenizer: Any) -> list[JsonObject]:
    """The same rows, all with the same columns: one that a single row has, all have."""
    shared: JsonObject = {}
    if any("tools" in row for row in rows):
        shared["tools"] = None
    if switches := template_kwargs(tokenizer):
        shared["chat_template_kwargs"] = switches
    return [shared | row for row in rows]


def _arguments(recipe: Sft, work: Path, max_tokens: int, seed: int, trackers: Sequence[str]) -> Any:
    """The settings of TRL's trainer, which works in the folder ``work``."""
    from trl import SFTConfig

    share = max(1, recipe.batch_size // this_process().num_processes)
    at_once = next(size for size in range(min(8, share), 0, -1) if share % size == 0)
    arguments = SFTConfig(
        output_dir=str(work),
        num_train_epochs=recipe.epochs,
        learning_rate=recipe.lr,
        max_length=max_tokens,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=share // at_once,
        completion_only_loss=True,
        seed=seed,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        save_steps=0.1,
        save_total_limit=2,
        save_strategy="steps",
        report_to=installed(trackers) or "none",
        logging_steps=5,
        bf16=False,
        dataloader_pin_memory=torch.accelerator.is_available(),
        gradient_checkpointing=recipe.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        # without it Trainer asks for the processes again, and each CPU process stands alone
        accelerator_config={"use_configured_state": True},
    )
    return on_one_device(arguments)


def _trainer(recipe: Sft, lm: Any, tokenizer: Any, rows: list[JsonObject], arguments: Any, guard: Any) -> Any:
    """TRL's trainer, whose batches ``guard`` sees before each step."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTTrainer

    class Watched(SFTTrainer):
        def training_step(self, model: Network, inputs: JsonObject, *rest: Any) -> Any:
            guard.batch.append(inputs["input_ids"])
            return super().training_step(model, inputs, *rest)

    adapters = None
    if recipe.lora_rank:
        adapters = LoraConfig(
            r=recipe.lora_rank,
            lora_alpha=2 * recipe.lora_rank,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
    else:
        lm.requires_grad_(True)
    trainer = Watched(
        model=lm,
        processing_class=tokenizer,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        peft_config=adapters,
    )
    trainer.add_callback(guard)
    return trainer


def _write(trainer: Any, recipe: Sft, lm: Any, tokenizer: Any, out: Path, name: str) -> None:
    """Write the trained model to ``out``, and delete the trainer's own folder."""
    assemble(trainer.accelerator, trainer.accelerator.unwrap_model(trainer.model))
    aside = out.with_name(out.name + ".part")
    # DeepSpeed has the weights in its own parts, so Trainer writes the model, or the adapter alone, which
    # loads as well
    deepspeed = trainer.accelerator.distributed_type == "DEEPSPEED"
    if deepspeed:
        trainer.save_model(str(aside))
    if trainer.accelerator.is_main_process:
        final = trainer.accelerator.unwrap_model(trainer.model)
        with writing(out):
            if deepspeed:
                tokenizer.save_pretrained(aside)
            else:
                save(lm, final if recipe.lora_rank else None, tokenizer, aside, name)
            shutil.rmtree(out, ignore_errors=True)
            aside.rename(out)
        shutil.rmtree(SftFiles(out).work, ignore_errors=True)
    wait_for_everyone()


def _row(prompt: Text, response: Text) -> JsonObject:
    """A prompt and its completion as TRL wants them: in one form, and the tools in a column of their own."""
    if isinstance(prompt, str):
        return {"prompt": prompt, "completion": response}
    asked, tools = split_tools(prompt)
    turn = [{"role": "assistant", "content": response}] if isinstance(response, str) else response
    row: JsonObject = {"prompt": asked, "completion": split_tools(turn)[0]}
    if tools:
        row["tools"] = json.dumps(tools)
    return row
