"""An epoch of DPO on film reviews with edits, by Redline's trainer and by TRL's, the same layers trained.

    python recipes/cad_pairs.py path/to/data/cad runs/experiment-cad/source
    python benchmarks/direct_training.py runs/experiment-cad/source/edits.jsonl --edits 64

Both train LoRA adapters of rank 16 on the upper 10 of SmolLM2-135M's 30 layers, on the same token ids, 16
pairs a step in passes of 4 pairs (TRL) or of 4,096 tokens (Redline), in the same process, one after the
other, twice: the second time counts, since the first warms up. Counted are seconds of the clock and of the
processor: on a machine that does other work as well, the processor's are the ones to compare. Models are
loaded before."""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common import about
from redline.data.records import Edit
from redline.direct import stage
from redline.direct.rows import edit_rows, pair_of
from redline.direct.settings import DirectDpo
from redline.engine.models import load_causal_lm, tokenizer_of
from redline.engine.settings import Adapt, Model
from redline.label.stage import label_edits
from redline.policy.settings import Policy

OUT = Path(__file__).parent / "results" / "direct_training.json"
LAYERS, BATCH, LIMIT = 10, 16, 72
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def timed(work: Callable[[], None]) -> dict[str, float]:
    """Seconds of the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return {
        "seconds": round(time.perf_counter() - clock, 1),
        "cpu_seconds": round(time.process_time() - processor, 1),
    }


def ours(labels: list[Any], model: Model, folder: Path) -> dict[str, float]:
    """Redline's epoch, everything between loading and saving: frozen layers, anchors, steps, checkpoints."""
    measured: dict[str, float] = {}
    run = stage.DirectTrainer.run

    def watched(self: stage.DirectTrainer, watch: Any) -> None:
        measured.update(timed(lambda: run(self, watch)))

    stage.DirectTrainer.run = watched  # type: ignore[method-assign]
    try:
        policy = Policy(adapt=Adapt(train_layers=LAYERS))
        settings = DirectDpo(method="dpo", epochs=1, lr=1e-3, batch_size=BATCH)
        stage.train_direct(settings, policy, model, stage.Given(labels), folder, max_response=LIMIT)
    finally:
        stage.DirectTrainer.run = run  # type: ignore[method-assign]
    return measured


def trls(labels: list[Any], model: Model, folder: Path) -> dict[str, float]:
    """TRL's epoch: ``trainer.train()``."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from trl import DPOConfig, DPOTrainer

    class Tokenized(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset  # our ids: nothing is tokenized again

    tokenizer = tokenizer_of(model)
    lm = load_causal_lm(model)
    depth = lm.config.num_hidden_layers
    layers = list(range(depth - LAYERS, depth))
    config = LoraConfig(r=16, lora_alpha=32, target_modules=LINEAR, layers_to_transform=layers)
    rows = []
    for number, edit in enumerate(edit_rows(labels, tokenizer, LIMIT)):
        if edit.changed:
            liked, disliked = pair_of(edit, number)
            sides = {"chosen_ids": liked.response, "rejected_ids": disliked.response}
            rows.append({"prompt_ids": edit.prompt_ids, **sides})
    settings = DPOConfig(
        output_dir=str(folder),
        num_train_epochs=1,
        learning_rate=1e-3,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=BATCH // 4,
        beta=0.1,
        max_length=None,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        save_strategy="no",
        report_to="none",
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    trainer: Any = Tokenized(
        model=get_peft_model(lm, config),
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    return timed(trainer.train)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("edits")
    options.add_argument("--edits", dest="count", type=int, default=64)
    chosen = options.parse_args()
    model = Model()
    with open(chosen.edits, encoding="utf-8") as lines:
        edits = [Edit.model_validate_json(line) for line in lines][: chosen.count]
    labels = list(label_edits(edits, tokenizer_of(model), max_response_tokens=LIMIT))
    measured: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for time_of in range(2):
            few = labels[:4] if time_of == 0 else labels
            measured["redline"] = ours(few, model, Path(folder) / f"redline-{time_of}")
            measured["trl"] = trls(few, model, Path(folder) / f"trl-{time_of}")
            print(len(few), "edits:", measured, flush=True)
    ratio = {key: round(measured["trl"][key] / measured["redline"][key], 2) for key in measured["trl"]}
    result = {"edits": len(labels), "threads": torch.get_num_threads(), **measured, "ratio": ratio}
    OUT.write_text(json.dumps(result | about("direct_training.py", model), indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
