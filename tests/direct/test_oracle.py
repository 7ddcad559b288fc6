"""DPO and paired BCO against TRL's trainer: loss and every gradient."""

import pytest
import torch
from datasets import Dataset
from rig import labels, policy, train
from transformers import AutoModelForCausalLM, AutoTokenizer

from redline.direct import stage
from redline.direct.rows import edit_rows, pair_of
from redline.direct.settings import DirectBco, DirectDpo
from redline.engine import steps


@pytest.mark.parametrize(
    ("loss_type", "method"),
    [
        ("sigmoid", DirectDpo(method="dpo", batch_size=8)),
        ("bco_pair", DirectBco(method="bco", shift="none", batch_size=8)),
    ],
)
def test_loss_and_gradients_are_trls(tiny_model, tmp_path, monkeypatch, loss_type, method):
    """On one batch, from adapters that have moved away from the start, beta 0.1."""
    taken = {}
    clip = steps.clip_gradients

    def keep(accelerator, model, limit):
        norm = clip(accelerator, model, limit)
        gradients = {}
        for name, parameter in model["actor"].named_parameters():
            if parameter.requires_grad and parameter.grad is not None and "lora_" in name:
                gradients[name.removeprefix("lm.")] = parameter.grad.clone() * max(1.0, norm)
        taken.setdefault("gradients", gradients)
        return norm

    def moved(actor):
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, parameter in sorted(actor.named_parameters()):
                if "lora_" in name and parameter.requires_grad:
                    parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
                    taken.setdefault("weights", {})[name.removeprefix("lm.")] = parameter.detach().clone()

    run = stage.DirectTrainer.run
    monkeypatch.setattr(
        stage.DirectTrainer, "run", lambda self, watch: (moved(self.room.anchors.actor), run(self, watch))[1]
    )
    monkeypatch.setattr(steps, "clip_gradients", keep)
    out = train(tiny_model, method, tmp_path / "ours", policy(tmp_path))
    line = (out / "log.jsonl").read_text().splitlines()[0]
    loss = float(line.split('"loss": ')[1].split(",")[0])

    theirs, gradients = trls(tiny_model, loss_type, taken["weights"], tmp_path)
    assert loss == pytest.approx(theirs, abs=1e-5)
    assert gradients.keys() == taken["gradients"].keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(taken["gradients"][name], gradient, rtol=1e-3, atol=1e-5)


def trls(name, loss_type, weights, folder):
    """TRL's loss of the eight edits, and its gradients by our names."""
    from peft import LoraConfig, get_peft_model
    from trl import DPOConfig, DPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(name)
    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=linear, layers_to_transform=[2, 3])
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(name), config)
    rows = []
    for number, edit in enumerate(edit_rows(labels(name), tokenizer, 512)):
        liked, disliked = pair_of(edit, number)
        rows.append(
            {"prompt_ids": edit.prompt_ids, "chosen_ids": liked.response, "rejected_ids": disliked.response}
        )

    class Tokenized(DPOTrainer):
        def _prepare_dataset(self, dataset, *_):
            return dataset

    settings = DPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=len(rows),
        beta=0.1,
        loss_type=loss_type,
        max_length=None,
        report_to="none",
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        use_cpu=True,
    )
    trainer = Tokenized(
        model=model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    inner = {key.removeprefix("base_model.model."): parameter for key, parameter in model.named_parameters()}
    with torch.no_grad():
        for key, value in weights.items():
            inner[key].copy_(value)
    batch = next(iter(trainer.get_train_dataloader()))
    model.eval()
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    found = {key: parameter.grad for key, parameter in inner.items() if ".default." in key}
    return float(loss.detach()), {key: gradient for key, gradient in found.items() if gradient is not None}
