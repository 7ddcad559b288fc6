"""The plan: what it counts against what PyTorch really allocates, saves and holds, on tiny models; and its
words for mistakes."""

import json
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from peft import get_peft_model_state_dict
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, DynamicCache, MixtralConfig
from typer.testing import CliRunner

from redline.cli import app
from redline.data.records import Prompt
from redline.direct.settings import DirectDpo
from redline.engine.adapt import adapt
from redline.engine.attention import use_short_attention
from redline.engine.logprobs import token_logprobs
from redline.engine.models import load_causal_lm
from redline.engine.settings import Adapt, Model
from redline.engine.views import Split, cache_argument
from redline.errors import UserError
from redline.plan.command import advice, machine_of, memory_of, plan_recipe, stage_of
from redline.plan.memory import Machine, held, kv_bytes, reward_stage, training_task
from redline.plan.speed import Work, update_seconds
from redline.plan.trace import Batch, Tally, Task, build, forward_bytes, logits_bytes, training_bytes
from redline.policy.train import build_ppo
from redline.recipe import check_recipe
from redline.reward.model import new_reward_model, save_reward_model
from redline.sampling.settings import VllmServer
from tiny_models import CONFIGS, NO_PLAIN_STACK, model_folder, random_model

CPU = Machine(0, 25e9, 1e11, 1e10)
WAYS = [
    Adapt(lora_rank=4),
    Adapt(lora_rank=4, train_layers=2),
    Adapt(lora_rank=0),
    Adapt(lora_rank=0, train_layers=2),
    Adapt(lora_rank=4, gradient_checkpointing=True),
]
BATCH = Batch(rows=6, length=40, responses=25)


def recipe_of(model: str, **policy):
    return check_recipe(
        {
            "model": {"name": model, "dtype": "float32"},
            "data": {"edits": {"path": "none.jsonl"}, "max_prompt_tokens": 12, "max_response_tokens": 16},
            "reward": {"adapt": {"lora_rank": 4}},
            "policy": {
                "adapt": {"lora_rank": 4},
                "batch_size": 8,
                "minibatch_size": 8,
                "sampling": {"max_new_tokens": 16},
            }
            | policy,
        },
        "test",
    )


def a_pass(config, how: Adapt, dtype: torch.dtype):
    """The engine's own model with real weights, and its forward pass over a micro-batch."""
    lm = random_model(config).to(dtype)
    use_short_attention(lm)
    adapt(lm, how, lm.config.num_hidden_layers)
    for parameter in lm.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    split = Split(
        lm,
        lm.config.num_hidden_layers - (how.train_layers or lm.config.num_hidden_layers),
        how.gradient_checkpointing,
    )
    ids = torch.randint(3, 400, (BATCH.rows, BATCH.length))
    states = split.lower(ids)
    rows = torch.arange(BATCH.rows).repeat_interleave(BATCH.responses)
    columns = (torch.arange(BATCH.responses) + BATCH.length - BATCH.responses - 1).repeat(BATCH.rows)
    targets, head = ids[rows, columns + 1], torch.nn.Linear(lm.config.hidden_size, 1)

    def forward():
        hidden = split.upper(states)[rows, columns]
        cap = getattr(lm.config, "final_logit_softcapping", None)
        logprobs, _ = token_logprobs(hidden, lm.get_output_embeddings(), targets, 1.0, cap)
        return logprobs.sum() + head(hidden.float()).sum()

    return forward


def allocated(run) -> int:
    """The highest sum of what PyTorch's own allocator gives and takes back while ``run`` runs for the second
    time.

    Without oneDNN, whose buffers depend on the processor. (Products of bfloat16 matrices as narrow as tiny
    adapters make buffers that wider ones do not, so adapters are float32 here.)
    """
    with torch.backends.mkldnn.flags(enabled=False):
        run()
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profiled:
            run()
    found = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(found, key=lambda event: event.start_ns())))


@pytest.mark.parametrize(
    ("how", "dtype"),
    [*((how, torch.float32) for how in WAYS), (WAYS[2], torch.bfloat16)],
    ids=["lora", "lora upper", "full", "full upper", "recomputed", "bfloat16"],
)
def test_traced_bytes_are_what_the_allocator_gives_a_real_pass(how, dtype):
    forward = a_pass(CONFIGS["llama"], how, dtype)
    peak = allocated(lambda: forward().backward())
    planned = training_bytes(Task(AutoModelForCausalLM, CONFIGS["llama"], dtype, how), BATCH)
    assert planned == pytest.approx(peak, rel=0.1 if how.gradient_checkpointing else 0.03)


@pytest.mark.parametrize("how", WAYS[:2], ids=["lora", "lora upper"])
def test_they_hold_what_autograd_saves(how):
    """Saved-tensor hooks are autograd's own account: the height of a pass is that, and a layer's worth of
    temporaries."""
    forward, sizes = a_pass(CONFIGS["llama"], how, torch.bfloat16), {}

    def save(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        loss = forward()
    task = Task(AutoModelForCausalLM, CONFIGS["llama"], torch.bfloat16, how)
    planned = training_bytes(task, BATCH)
    assert loss.requires_grad
    assert (
        0.95 * sum(sizes.values()) < planned < sum(sizes.values()) + logits_bytes(task, BATCH) + 0.4 * planned
    )


@pytest.mark.parametrize("family", ["gemma3", "gpt2"])
def test_other_architectures_are_traced_too(family):
    forward = a_pass(CONFIGS[family], Adapt(lora_rank=4), torch.float32)
    tally = Tally()
    with tally:
        forward().backward()
    planned = training_bytes(
        Task(AutoModelForCausalLM, CONFIGS[family], torch.float32, Adapt(lora_rank=4)), BATCH
    )
    assert planned == pytest.approx(tally.peak, rel=0.08)


def test_a_large_vocabulary_hides_no_layer():
    """The gradients of a trained embedding outweigh what two layers save, but not what 24 do."""
    config = type(CONFIGS["llama"])(
        **CONFIGS["llama"].to_dict()
        | {
            "vocab_size": 30_000,
            "hidden_size": 256,
            "head_dim": 64,
            "num_hidden_layers": 24,
            "tie_word_embeddings": True,
        }
    )
    forward = a_pass(config, Adapt(lora_rank=0), torch.float32)
    peak = allocated(lambda: forward().backward())
    planned = training_bytes(Task(AutoModelForCausalLM, config, torch.float32, Adapt(lora_rank=0)), BATCH)
    assert planned == pytest.approx(peak, rel=0.03)


def test_bytes_grow_with_rows_and_layers_but_those_of_a_forward_pass_not_with_layers():
    task = Task(AutoModelForCausalLM, CONFIGS["llama"], torch.float32, Adapt(lora_rank=4))
    larger = replace(BATCH, rows=2 * BATCH.rows)
    assert training_bytes(task, larger) == pytest.approx(2 * training_bytes(task, BATCH), rel=0.1)
    deeper = type(task.config)(**task.config.to_dict() | {"num_hidden_layers": 8})
    assert training_bytes(replace(task, config=deeper), BATCH) > 1.7 * training_bytes(task, BATCH)
    assert forward_bytes(replace(task, config=deeper), BATCH) == forward_bytes(task, BATCH)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("how", WAYS[:4], ids=["lora", "lora upper", "full", "full upper"])
def test_weights_are_counted_as_they_are_held(family, how):
    model = random_model(CONFIGS[family])
    wrapped = adapt(model, how, 4)
    found = held(build(Task(AutoModelForCausalLM, CONFIGS[family], torch.float32, how)))
    assert found.all == sum(parameter.nbytes for parameter in model.parameters())  # tied embeddings once
    assert found.count == sum(
        parameter.numel() for parameter in model.parameters() if parameter.requires_grad
    )
    if how.lora_rank:
        assert found.count == sum(tensor.numel() for tensor in get_peft_model_state_dict(wrapped).values())


def test_tied_embeddings_are_held_once():
    tied = type(CONFIGS["llama"])(**CONFIGS["llama"].to_dict() | {"tie_word_embeddings": True})
    counts = [
        held(build(Task(AutoModelForCausalLM, config, torch.float32, Adapt()))).frozen
        for config in (CONFIGS["llama"], tied)
    ]
    assert counts[0] - counts[1] == 501 * 32 * 4


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_kv_cache_is_that_of_a_real_pass(family):
    model, cache = random_model(CONFIGS[family]), DynamicCache(config=CONFIGS[family])
    model(input_ids=torch.ones(3, 10, dtype=torch.long), use_cache=True, **cache_argument(model, cache))
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    planned = kv_bytes(CONFIGS[family], torch.float32, 3, 10)
    if family == "gemma3":  # a window of 4 keeps 3 tokens and adds the new one
        assert planned == pytest.approx(real, rel=0.2)
    else:
        assert planned == real


def test_parts_of_the_policy_are_those_of_the_trainer(tiny_model, tmp_path):
    """Reference copy, optimizer and lower states, against the engine's own objects after an update."""
    from accelerate import Accelerator

    (tmp_path / "rewards.py").write_text(
        "def count(prompts, responses):\n    return [float(len(text)) for text in responses]\n"
    )
    recipe = recipe_of(
        tiny_model,
        adapt={"lora_rank": 0, "train_layers": 2},
        reward_scale=1.0,
        reward=[{"function": f"{tmp_path / 'rewards.py'}:count"}],
        sampling={"max_new_tokens": 16, "min_new_tokens": 16},
    )
    prompts = [Prompt(id=str(index), prompt="the film was good") for index in range(8)]
    trainer = build_ppo(recipe.policy, recipe.model, prompts, Accelerator())
    kept, score = {}, trainer.reward

    def reward(rollout):
        kept["states"] = rollout.states.nbytes
        return score(rollout)

    trainer.reward = reward
    trainer.update(0)
    stage = plan_recipe(recipe, CPU, prompt_tokens=len(trainer.prompt_ids[0]))[-1]
    moments = sum(
        value.nbytes
        for state in trainer.stepper.optimizer.state.values()
        for value in state.values()
        if value.ndim
    )
    heads = 2 * 4 * sum(parameter.numel() for parameter in trainer.actor.value_head.parameters())
    frozen = {id(parameter) for parameter in trainer.actor.lm.parameters()}
    copy = sum(p.nbytes for p in trainer.actor._reference[0].model.parameters() if id(p) not in frozen)
    assert stage.parts["optimizer"] == moments - heads
    assert stage.parts["reference copy"] == copy
    assert stage.parts["lower states"] == kept["states"]


def test_sharding_divides_what_is_trained_and_ddp_adds_its_buckets(tiny_model):
    recipe = recipe_of(tiny_model, adapt={"lora_rank": 0})
    one, each, shard = (
        plan_recipe(recipe, machine)[-1].parts
        for machine in (replace(CPU, gpus=1), replace(CPU, gpus=4), replace(CPU, gpus=4, sharded=True))
    )
    assert each["weights"] == one["weights"]
    assert each["DDP buckets"] == one["gradients"]
    for part in ("weights", "gradients", "optimizer"):
        assert shard[part] == one[part] / 4
    assert shard["activations"] < one["activations"]  # a quarter of the batch on each


def test_sharded_weights_are_whole_while_sampling_and_with_whom_shares_them(tiny_model):
    recipe = recipe_of(tiny_model)  # LoRA, a reward model on the policy's backbone
    one, shard = (plan_recipe(recipe, replace(CPU, gpus=4, sharded=sharded))[-1] for sharded in (False, True))
    policy = one.parts["weights"]
    assert shard.parts["gathered layers"] + shard.parts["gathered policy"] == policy
    assert shard.phases["sample"] > shard.parts["weights"] + policy
    assert shard.parts["reward model"] - one.parts["reward model"] > policy / 2


def test_a_reward_model_on_the_policys_backbone_brings_only_its_adapters(tiny_model):
    lora, full = recipe_of(tiny_model), recipe_of(tiny_model)
    full.reward.adapt = Adapt(lora_rank=0)
    shared, own = (plan_recipe(recipe, CPU)[-1].parts["reward model"] for recipe in (lora, full))
    task = Task(
        AutoModelForTokenClassification, load_causal_lm(lora.model).config, torch.float32, Adapt(lora_rank=4)
    )
    adapters = held(build(task)).trained
    assert 0 < shared < 1.1 * adapters < own


def test_a_critic_of_its_own_doubles_what_is_trained(tiny_model):
    shared, own = (
        plan_recipe(recipe_of(tiny_model, critic=critic), CPU)[-1].parts for critic in ("shared", "own")
    )
    for part in ("gradients", "optimizer", "activations"):
        assert own[part] == 2 * shared[part]


def test_what_a_server_samples_is_not_counted(tiny_model, tmp_path):
    server = VllmServer(kind="vllm", url="http://127.0.0.1:8000", adapter_dir=str(tmp_path))
    here, served = recipe_of(tiny_model), recipe_of(tiny_model, sampler=server.model_dump())
    before, after = plan_recipe(here, CPU)[-1], plan_recipe(served, CPU)[-1]
    assert before.parts["KV cache"] > 0
    assert after.parts["KV cache"] == 0
    assert "sample" not in after.phases
    assert "a server draws the responses" in " ".join(after.notes)
    assert 0 < update_seconds(served, CPU, 12) < update_seconds(here, CPU, 12)


def test_reward_states_are_kept_up_to_the_cache(tiny_model):
    recipe = recipe_of(tiny_model)
    recipe.reward.adapt = Adapt(lora_rank=4, train_layers=1)
    few, many = (reward_stage(recipe, CPU, 12, edits).parts["lower states"] for edits in (10, 10**9))
    assert few == 10 * (12 + 32) * 32 * 4
    assert many == 4 * 2**30


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"minibatch_size": 4, "epochs": 2},
        {"critic": "own"},
        {"adapt": {"lora_rank": 0}},
        {"adapt": {"lora_rank": 1, "gradient_checkpointing": True}},
        {"whole reward": True},
    ],
    ids=["one pass", "minibatches", "own critic", "full", "recomputed", "a reward model of its own"],
)
def test_operations_are_those_of_a_real_update(tiny_model, tmp_path, policy):
    """With one operation a second, the planned seconds are a count; PyTorch counts a real update's matrix
    products."""
    from accelerate import Accelerator

    settings = {
        "adapt": {"lora_rank": 1, "train_layers": 2},
        "epochs": 1,
        "reward_scale": 1.0,
        "sampling": {"max_new_tokens": 8, "min_new_tokens": 8},
    } | policy
    whole = settings.pop("whole reward", False)
    recipe = recipe_of(tiny_model, **settings)
    recipe.reward = recipe.reward.model_copy(
        update={"adapt": Adapt(lora_rank=0 if whole else 1, train_layers=2)}
    )
    reward, wrapped = new_reward_model(recipe.reward, recipe.model)
    save_reward_model(reward, wrapped, tmp_path / "reward", tiny_model)
    prompts = [Prompt(id=str(index), prompt="the film was good") for index in range(8)]
    trainer = build_ppo(recipe.policy, recipe.model, prompts, Accelerator(), tmp_path / "reward")
    with FlopCounterMode(display=False) as counted:
        trainer.update(0)
    machine = Machine(0, 25e9, flops=1.0, bandwidth=1e30)
    stage = plan_recipe(recipe, machine, prompt_tokens=len(trainer.prompt_ids[0]))[-1]
    assert stage.seconds == pytest.approx(counted.get_total_flops(), rel=0.08)


def test_of_a_layer_of_experts_only_those_at_work_are_counted():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 501}
    config = MixtralConfig(
        **sizes, intermediate_size=48, num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2
    )
    work = Work(Task(AutoModelForCausalLM, config, torch.float32, Adapt(lora_rank=0)))
    attention, router, expert = 2 * 32 * (32 + 16), 8 * 32, 3 * 32 * 48
    assert work.a_layer == 2 * (attention + router + 2 * expert)


def test_a_cpus_speed_is_measured_on_the_models_own_layers(tiny_model):
    machine, known = machine_of(recipe_of(tiny_model), None, None, None, None, False)
    assert 0 < machine.stepping < machine.flops * 10
    assert "layers of this model" in known
    given, known = machine_of(recipe_of(tiny_model), None, None, 2.0, 50.0, False)
    assert (given.flops, given.stepping, given.bandwidth, known) == (2e12, None, 5e10, "--tflops")


def test_gradient_checkpointing_is_planned(tiny_model):
    plain, again = (
        plan_recipe(recipe_of(tiny_model, adapt={"lora_rank": 4, "gradient_checkpointing": on}), CPU)[-1]
        for on in (False, True)
    )
    assert again.parts["activations"] < 0.6 * plain.parts["activations"]
    assert again.seconds > plain.seconds


def test_advice_ends_where_the_stage_fits(tiny_model, monkeypatch):
    monkeypatch.setattr("redline.plan.memory.LIBRARIES", 0.0)
    recipe = recipe_of(tiny_model, adapt={"lora_rank": 0}, microbatch_tokens=4096)
    stage = stage_of("policy", recipe, CPU, 12, None)
    assert advice(stage, recipe, CPU, 12, None) == []
    small = replace(CPU, memory=0.7 * stage.total)
    found = advice(stage, recipe, small, 12, None)
    assert found[-1]["fits"]
    assert not any(line["fits"] for line in found[:-1])
    assert found[0]["change"].startswith("policy.microbatch_tokens=")
    hopeless = advice(stage, recipe, replace(CPU, memory=1e5), 12, None)
    assert not hopeless[-1]["fits"]
    assert any("train_layers" in line["change"] for line in hopeless)


def test_the_command_prints_json(tiny_model, tmp_path):
    edits = [
        {"id": str(i), "prompt": f"the film {i}", "rejected": " was bad", "edited": " was good"}
        for i in range(20)
    ]
    (tmp_path / "edits.jsonl").write_text("".join(json.dumps(edit) + "\n" for edit in edits))
    (tmp_path / "recipe.yaml").write_text(
        json.dumps(
            {
                "model": {"name": tiny_model},
                "sft": {"batch_size": 4},
                "data": {"edits": {"path": "edits.jsonl"}},
            }
        )
    )
    arguments = [
        "plan",
        str(tmp_path / "recipe.yaml"),
        "--gpus",
        "2",
        "--gpu-memory",
        "24GB",
        "--price-per-hour",
        "2",
    ]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    plan = json.loads(result.stdout)
    stages = {stage["name"]: stage for stage in plan["plans"]["FSDP2"]}
    assert list(stages) == ["sft", "reward", "policy"]
    assert plan["edits"] == 20
    assert stages["policy"]["steps"] == 40
    assert stages["sft"]["steps"] == 14
    assert stages["policy"]["cost"] == pytest.approx(stages["policy"]["hours"] * 2 * 2)
    table = CliRunner().invoke(app, arguments).stdout
    assert "activations" in table
    assert "FSDP2" in table
    assert "fits" in table


@pytest.mark.parametrize(
    ("text", "size"), [("80GB", 80e9), ("24 GiB", 24 * 2**30), ("81920MiB", 80 * 2**30), ("80", 80e9)]
)
def test_memory_is_read_in_its_unit(text, size):
    assert memory_of(text) == size


def test_mistakes_are_named(tiny_model, tmp_path):
    recipe = recipe_of(tiny_model)
    for text in ("80XB", "much", "0GB"):
        with pytest.raises(UserError, match="--gpu-memory"):
            memory_of(text)
    with pytest.raises(UserError, match="--gpus is not given"):
        machine_of(recipe, None, "24GB", None, None, False)
    with pytest.raises(UserError, match="--gpus 0"):
        machine_of(recipe, 0, "80GB", None, None, False)
    with pytest.raises(UserError, match="--tflops"):
        machine_of(recipe, 1, "80GB", -1.0, None, False)
    with pytest.raises(UserError, match="multiple of the 3 GPUs"):
        plan_recipe(recipe, replace(CPU, gpus=3))
    with pytest.raises(UserError, match="nothing to plan"):
        plan_recipe(recipe.model_copy(update={"direct": DirectDpo(method="dpo")}), CPU)
    with pytest.raises(UserError, match="no such model folder"):
        plan_recipe(recipe_of("./nowhere"), CPU)
    with pytest.raises(UserError, match="train_layers is 9"):
        plan_recipe(recipe_of(tiny_model, adapt={"train_layers": 9}), CPU)
    for machine in (CPU, None):
        with pytest.raises(UserError, match="cannot be planned"):
            plan_recipe(recipe_of(model_folder(tmp_path, NO_PLAIN_STACK)), machine)


def test_full_fine_tuning_is_planned_in_float32():
    model = Model(name="any", dtype="bfloat16")
    dtypes = [
        training_task(AutoModelForCausalLM, CONFIGS["llama"], model, Adapt(lora_rank=rank), CPU).dtype
        for rank in (8, 0)
    ]
    assert dtypes == [torch.bfloat16, torch.float32]
