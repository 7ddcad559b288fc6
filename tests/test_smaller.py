"""Gradient checkpointing gives the same gradients for less memory; 4-bit base weights train, and are saved
whole; a trainer takes one device a process."""

from pathlib import Path

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import TrainingArguments

import tiny_trainings
from redline.data.records import Edit, Prompt
from redline.direct.settings import Sft
from redline.engine.models import load_causal_lm
from redline.engine.processes import on_one_device
from redline.engine.settings import Adapt, Model
from redline.errors import UserError
from redline.policy.actor import ActorCritic
from redline.policy.settings import Policy
from redline.reward.settings import RewardTerm
from redline.sampling.settings import Sampling
from tiny_models import CONFIGS, model_folder
from tiny_trainings import REWARDS, backbone, train, weights


def gradients(model: Model, how: Adapt) -> tuple[dict[str, torch.Tensor], int]:
    """The gradients of a policy's log-probabilities and values, and the bytes that are kept for the backward
    pass."""
    torch.manual_seed(0)
    actor = ActorCritic(model, how)
    torch.nn.init.normal_(actor.value_head.weight)
    for name, parameter in actor.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(
                parameter, std=0.1, generator=torch.Generator().manual_seed(parameter.numel())
            )
    ids = torch.randint(0, 400, (2, 30), generator=torch.Generator().manual_seed(1))
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    rows, columns = torch.arange(2).repeat_interleave(29), torch.arange(29).repeat(2)
    with torch.no_grad():
        actor(actor.split.lower(ids), rows, columns, ids[:, 1:].flatten(), 1.0)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        logprobs, values, _ = actor(actor.split.lower(ids), rows, columns, ids[:, 1:].flatten(), 1.0)
    (logprobs.sum() + values.square().sum()).backward()
    return {
        name: parameter.grad for name, parameter in actor.named_parameters() if parameter.requires_grad
    }, sum(kept.values())


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize(
    "how", [{"lora_rank": 4}, {"lora_rank": 4, "train_layers": 2}, {"lora_rank": 0, "train_layers": 2}]
)
def test_checkpointed_gradients_are_the_same(tmp_path, family, how):
    model = Model(name=model_folder(tmp_path, CONFIGS[family]), dtype="float32")
    plain, kept = gradients(model, Adapt(**how))
    again, less = gradients(model, Adapt(**how, gradient_checkpointing=True))
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient)
    assert any(bool(gradient.abs().max() > 1e-3) for gradient in plain.values())
    assert less < kept / 2


@pytest.mark.parametrize("kind", ["policy", "reward", "sft"])
def test_a_whole_training_with_gradient_checkpointing_keeps_less_and_ends_the_same(
    tmp_path, monkeypatch, kind
):
    model, rewards, part = backbone(tmp_path), tmp_path / "rewards.py", "Sft" if kind == "sft" else "Adapt"
    plain = getattr(tiny_trainings, part)
    rewards.write_text(REWARDS)
    ended, sizes = [], []
    for less in (False, True):
        kept: list[int] = []

        def keep(tensor: torch.Tensor, kept: list[int] = kept) -> torch.Tensor:
            kept.append(tensor.nbytes)
            return tensor

        def changed(less=less, **given):
            return plain(
                **given | ({} if part == "Sft" else {"train_layers": None}) | {"gradient_checkpointing": less}
            )

        with monkeypatch.context() as patched, saved_tensors_hooks(keep, lambda tensor: tensor):
            patched.setattr(tiny_trainings, part, changed)
            train(kind, tmp_path / f"{less}", model, rewards)
        ended.append(weights(tmp_path / f"{less}"))
        sizes.append(sum(kept))
    assert sizes[1] < 0.8 * sizes[0]
    for name, tensor in ended[0].items():
        torch.testing.assert_close(ended[1][name], tensor, rtol=0, atol=1e-5)


def test_four_bits_need_adapters_and_the_package(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="weights of 4 bits cannot be trained"):
        ActorCritic(Model(name="smollm2-135m", load_in_4bit=True), Adapt(lora_rank=0))
    monkeypatch.setattr("redline.engine.models.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package bitsandbytes"):
        load_causal_lm(Model(name=model_folder(tmp_path), load_in_4bit=True))


def four_bit_model(folder: Path) -> Model:
    config = type(CONFIGS["llama"])(
        **CONFIGS["llama"].to_dict() | {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    )
    return Model(name=model_folder(folder, config), dtype="bfloat16", load_in_4bit=True)


@pytest.mark.parametrize("how", [Adapt(lora_rank=4), Adapt(lora_rank=4, train_layers=2)])
def test_four_bit_gradients_are_those_of_the_same_weights_whole(tmp_path, monkeypatch, how):
    """Rounding of bfloat16 apart. (A pass without gradients, as sampling makes, comes first.)"""
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    model = four_bit_model(tmp_path)
    four, _ = gradients(model, how)
    whole = load_causal_lm(model.model_copy(update={"load_in_4bit": False}))
    modules = dict(whole.named_modules())
    for path, module in load_causal_lm(model).named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            modules[path].weight.copy_(
                bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            )
    monkeypatch.setattr("redline.policy.actor.load_causal_lm", lambda model: whole)
    plain, _ = gradients(model, how)
    assert four.keys() == plain.keys()
    for name, gradient in plain.items():
        assert float((four[name] - gradient).norm()) <= 0.15 * float(gradient.norm()) + 1e-3, name


def test_four_bit_weights_train_and_are_saved_whole(tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from redline.policy.train import train_policy

    model = four_bit_model(tmp_path / "model")
    assert (
        load_causal_lm(model).get_memory_footprint()
        < load_causal_lm(model.model_copy(update={"load_in_4bit": False})).get_memory_footprint()
    )
    rewards = tmp_path / "rewards.py"
    rewards.write_text(
        "def count(prompts, responses):\n    return [float(text.count('a')) for text in responses]\n"
    )
    how = Policy(
        updates=2,
        batch_size=4,
        minibatch_size=4,
        sampling=Sampling(max_new_tokens=6),
        adapt=Adapt(lora_rank=4, train_layers=2),
        reward=[RewardTerm(function=f"{rewards}:count")],
    )
    train_policy(
        how, model, [Prompt(id=text, prompt=text) for text in ("the film", "a book")], tmp_path / "out"
    )
    saved = load_causal_lm(Model(name=str(tmp_path / "out"), dtype="bfloat16"))
    assert not hasattr(saved.config, "quantization_config")
    assert {parameter.dtype for parameter in saved.parameters()} == {torch.bfloat16}
    assert Path(tmp_path / "out/adapter/adapter_model.safetensors").exists()


def test_four_bit_weights_are_fine_tuned_and_saved_whole(tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from redline.direct.sft import train_sft

    edits = [
        Edit(id=str(number), prompt="the film was", rejected=" bad", edited=" good") for number in range(8)
    ]
    model = four_bit_model(tmp_path / "model")
    train_sft(Sft(lora_rank=4, batch_size=4, epochs=1), model, edits, tmp_path / "sft")
    saved = load_causal_lm(Model(name=str(tmp_path / "sft"), dtype="bfloat16"))
    assert not hasattr(saved.config, "quantization_config")
    assert {parameter.dtype for parameter in saved.parameters()} == {torch.bfloat16}
    assert (tmp_path / "sft/adapter/adapter_model.safetensors").exists()


def test_a_trainer_in_one_process_takes_one_of_its_devices(tmp_path):
    settings = TrainingArguments(output_dir=str(tmp_path))
    settings._n_gpu = 4
    assert on_one_device(settings).train_batch_size == settings.per_device_train_batch_size
