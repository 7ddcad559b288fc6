"""The engine on given responses and rewards, and the plain loop with the same weights beside it."""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from peft import LoraConfig, get_peft_model
from reference_loop import PlainPpo, Sampled, Settings
from torch import Tensor
from transformers import AutoModelForCausalLM

import redline.policy.actor
import redline.policy.batch
import redline.policy.ppo
from redline.data.records import Prompt
from redline.data.tokenization import load_tokenizer
from redline.engine.batching import draw_rows
from redline.engine.rollout import Rollout
from redline.engine.settings import Adapt, Model, Optimizer
from redline.engine.trunk import LowerStates
from redline.engine.views import Split
from redline.policy.actor import ActorCritic
from redline.policy.batch import Batch
from redline.policy.settings import Kl, Policy
from redline.policy.train import build_ppo
from redline.reward.settings import RewardTerm
from redline.sampling.protocol import CurrentPolicy, Drawn, Request
from redline.sampling.settings import Sampling

EOS = 1

ADAPTS = {
    "LoRA": Adapt(lora_rank=4),
    "LoRA, upper layers": Adapt(lora_rank=4, train_layers=2),
    "full": Adapt(lora_rank=0),
    "full, upper layers": Adapt(lora_rank=0, train_layers=1),
}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def recipe(adapt: Adapt, **changes) -> Policy:
    """Fixed scale and KL coefficient, and Adam's epsilon so large that an update is nearly proportional to
    the gradient: then a rounding error stays one."""
    return Policy(
        **{
            "reward": [RewardTerm(function="builtins:len")],
            "adapt": adapt,
            "updates": 3,
            "batch_size": 4,
            "minibatch_size": 4,
            "epochs": 2,
            "reward_scale": 0.5,
            "no_eos_penalty": 0,
            "kl": Kl(target=None, coefficient=0.05),
            "sampling": Sampling(max_new_tokens=10),
            "optimizer": Optimizer(
                lr=0.3, head_lr=0.3, eps=1.0, warmup=0, decay="constant", max_grad_norm=1e6
            ),
            **changes,
        }
    )


class Rig:
    """An engine whose responses and rewards are given to ``update``; every update starts from the same,
    random weights."""

    def __init__(
        self,
        model: Model,
        how: Policy,
        prompts: Sequence[str] = ("the film",),
        spread: float = 0.05,
    ):
        set_seed(0)
        self.folder, self.recipe = model.name, how
        self.prompts = [Prompt(id=text, prompt=text) for text in prompts]
        self.ppo = build_ppo(how, model, self.prompts, Accelerator())
        self.tokenizer = load_tokenizer(model.name)
        self.trained = {
            name: parameter
            for name, parameter in self.ppo.actor.named_parameters()
            if parameter.requires_grad
        }
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in self.trained.values():
                parameter += spread * torch.randn(parameter.shape, generator=generator)
        self.start = {name: parameter.detach().clone() for name, parameter in self.trained.items()}
        self.gradients: list[dict[str, Tensor]] = []
        self.ppo.stepper.optimizer.optimizer.register_step_pre_hook(
            lambda *_: self.gradients.append(
                {
                    name: parameter.grad.clone()
                    for name, parameter in self.trained.items()
                    if parameter.grad is not None
                }
            )
        )

    def restart(self) -> None:
        """Put back the weights that every update starts from."""
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(self.start[name])

    def update(
        self, monkeypatch, batch: list[Sampled], pad: Callable | None = None, **changes
    ) -> tuple[dict, Batch]:
        """One update of the engine on a batch, from the start; returns what ``Ppo.update`` does."""
        self.restart()
        self.ppo.stepper.optimizer.optimizer.state.clear()
        self.gradients.clear()
        given, size = Given(batch, self.ppo.actor), len(batch)
        order = draw_rows(size, size, 0, self.ppo.seed)
        ppo = dataclasses.replace(
            self.ppo,
            settings=self.recipe.model_copy(update={"batch_size": size, "minibatch_size": size, **changes}),
            prompts=self.prompts[:1] * size,
            prompt_ids=[batch[order.index(row)].prompt.tolist() for row in range(size)],
            stop=[EOS],
            sampler=given,
            reward=given.reward,
        )
        with monkeypatch.context() as patched:
            if pad is not None:
                for module in (redline.policy.ppo, redline.policy.batch, redline.policy.actor):
                    patched.setattr(module, "pad", pad)
            return ppo.update(0)


class Given:
    """A sampler and a reward that give what they were given. What no pass may read, the states of last
    tokens, is garbage."""

    def __init__(self, batch: list[Sampled], actor: ActorCritic):
        self.batch, self.actor = batch, actor

    def sync(self, policy: CurrentPolicy) -> None:
        self.trunk = policy.trunk

    def sample(self, prompts: list[list[int]], n: int, request: Request) -> Drawn:
        states = LowerStates(self.trunk.layers, len(self.batch))
        for place, row in enumerate(self.batch):
            ids = torch.cat([row.prompt, row.response])
            for layer in self.trunk.layers:
                entered = Split(self.actor.lm, layer).lower(ids[None])[0]
                if len(row.response):
                    entered[-1] = 50.0
                states.put(layer, place, entered)
        return Drawn([row.response.tolist() for row in self.batch], None, states)

    def reward(self, rollout: Rollout) -> list[Tensor]:
        return [row.reward for row in self.batch]


class Twin(PlainPpo):
    """The plain loop with the weights that a rig has now; ``named`` are what it trains, by the engine's
    names."""

    def __init__(
        self,
        rig: Rig,
        settings: Settings,
        dtype: torch.dtype = torch.float64,
        schedule: Callable[[int], float] = lambda _: 1.0,
    ):
        policy, reference = (
            AutoModelForCausalLM.from_pretrained(rig.folder, dtype=dtype).eval().requires_grad_(False)
            for _ in range(2)
        )
        how, optimizer = rig.recipe.adapt, rig.recipe.optimizer
        if how.lora_rank:
            depth = policy.config.num_hidden_layers
            upper = None if how.train_layers is None else list(range(depth - how.train_layers, depth))
            policy = get_peft_model(
                policy,
                LoraConfig(
                    r=how.lora_rank,
                    lora_alpha=2 * how.lora_rank,
                    target_modules=LINEAR,
                    layers_to_transform=upper,
                ),
            ).to(dtype)
        head = torch.nn.Linear(policy.config.hidden_size, 1).to(dtype)
        prefix = "base_model.model." if how.lora_rank else ""
        every = {
            "lm." + name.removeprefix(prefix): parameter for name, parameter in policy.named_parameters()
        }
        every |= {f"value_head.{name}": parameter for name, parameter in head.named_parameters()}
        self.named = {name: every[name].requires_grad_(True) for name in rig.trained}
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(rig.trained[name])
        heads = [parameter for name, parameter in self.named.items() if name.startswith("value_head")]
        others = [parameter for name, parameter in self.named.items() if not name.startswith("value_head")]
        adam = torch.optim.AdamW(
            [{"params": others, "lr": optimizer.lr}, {"params": heads, "lr": optimizer.head_lr}],
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
        )
        super().__init__(
            policy, reference, head, adam, torch.optim.lr_scheduler.LambdaLR(adam, schedule), settings
        )

    @property
    def names(self) -> list[str]:
        """Of ``trained``, in its order."""
        return sorted(self.named, key=lambda name: name.startswith("value_head"))


def settings(how: Policy) -> Settings:
    return Settings(
        clip=how.clip,
        value_clip=how.value_clip,
        value_coefficient=how.value_coefficient,
        gamma=how.gamma,
        lam=how.gae_lambda,
        beta=how.kl.coefficient,
        temperature=how.sampling.temperature,
        max_grad_norm=how.optimizer.max_grad_norm,
        scale=how.reward_scale or 1.0,
    )


def assert_equal(rig: Rig, metrics: dict, twin: Twin, seen, rtol: float = 2e-3) -> None:
    """Every logged mean and every gradient of an update of the engine are the twin's."""
    for name, value in seen.means.items():
        torch.testing.assert_close(
            torch.tensor(metrics[name]).double(),
            torch.tensor(value).double(),
            rtol=rtol,
            atol=1e-4,
            equal_nan=True,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    assert len(rig.gradients) == len(seen.gradients)
    for found, wanted in zip(rig.gradients, seen.gradients, strict=True):
        largest = max(gradient.abs().max().item() for gradient in wanted)
        for name, gradient in zip(twin.names, wanted, strict=True):
            torch.testing.assert_close(
                found[name].double(),
                gradient.double(),
                rtol=rtol,
                atol=2e-4 * largest,
                msg=lambda text, name=name: f"gradient of {name}: {text}",
            )
