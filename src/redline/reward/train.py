"""Training of reward models on labelled edits: both sides of each edit, prompts masked, the frozen layers
computed once."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redline.console import progress_bar, say
from redline.data.files import write_json, write_jsonl
from redline.data.records import Labels
from redline.engine.batching import draw_rows, pack, pad
from redline.engine.checkpoints import Checkpoints, keep_batch, not_finite, writing
from redline.engine.models import check_tokens
from redline.engine.processes import (
    all_shares,
    finish_tracking,
    new_accelerator,
    own_share,
    wait_for_everyone,
)
from redline.engine.schedule import scheduler
from redline.engine.settings import Model
from redline.engine.sharding import (
    assemble,
    gathered,
    load_trained,
    prepare,
    trained_weights,
)
from redline.engine.steps import Stepper, adamw
from redline.engine.trunk import StateCache, forks_of
from redline.errors import UserError
from redline.reward.examples import Example, checksum, common_prefix, examples
from redline.reward.files import RewardFiles
from redline.reward.losses import classification_loss, pairwise_loss, token_rewards
from redline.reward.model import RewardModel, new_reward_model, save_reward_model
from redline.reward.offsets import token_offsets
from redline.reward.quality import RewardMetrics, RewardQuality, Sides, measure
from redline.reward.settings import Reward
from redline.types import JsonObject, Network

MICROBATCH_TOKENS = 8192
CPU_MICROBATCH_TOKENS = (
    1536  # of 512 to 2,400 the one with the most edits a second: fewer calls, yet little padding
)
SHARED = (
    0.2  # of all tokens: where the sides of edits have less in common, long rows cost more than that saves
)
SHOWN = 500  # held-out edits of each set whose rewards are written to scores.jsonl


def train_reward(
    recipe: Reward,
    backbone: Model,
    train: Iterable[Labels],
    validation: Iterable[Labels],
    out: Path | str,
    *,
    test: Iterable[Labels] = (),
    max_response: int = 512,
    seed: int = 0,
    trackers: Sequence[str] = (),
) -> RewardMetrics:
    """Train a reward model and write its folder ``out``; returns the metrics (also in ``out/metrics.json``).

    The checkpoint with the best validation (mean of token AUC and pairwise accuracy; for sequence models the
    accuracy) is kept. ``test`` edits are measured once, at the end, by that checkpoint. Stopped and started
    again, it continues. Beside the metrics, ``out/scores.jsonl`` has the rewards of a token model on the
    held-out edits.
    """
    from accelerate.utils import set_seed

    set_seed(seed)
    out = Path(out)
    files = RewardFiles(out)
    accelerator = new_accelerator(trackers, out)
    accelerator.init_trackers("reward")
    reward, wrapped = new_reward_model(recipe, recipe.model or backbone)
    sets = [
        examples(records, reward.tokenizer, recipe, max_response) for records in (train, validation, test)
    ]
    if not sets[0] or not sets[1]:
        raise UserError(
            f"reward training: {len(sets[0])} edits to train on and {len(sets[1])} to validate on; it needs "
            "some of both. Add edits, or change data.validation_share."
        )
    longest = max(len(side.ids) for edits in sets for example in edits for side in example.sides)
    places = getattr(reward.model.config.get_text_config(), "max_position_embeddings", None)
    if places is not None and 0 < places < longest:
        raise UserError(
            f"reward training: the longest prompt and response have {longest} tokens, the model has {places} "
            "positions. Lower data.max_prompt_tokens or data.max_response_tokens."
        )
    rows = [side.ids.tolist() for edits in sets for example in edits for side in example.sides]
    check_tokens(reward.model, rows, (recipe.model or backbone).name)
    trainer = RewardTrainer(recipe, reward, accelerator, out, seed)
    trainer.lay_out([example for edits in sets for example in edits])
    done = trainer.train(sets[0], sets[1])
    result = RewardMetrics(
        validation=trainer.evaluate(sets[1]),
        best_step=done.best_step,
        steps=done.steps,
        seconds=round(done.seconds, 1),
        test=trainer.evaluate(sets[2]) if sets[2] else None,
        kind=recipe.kind,
        loss=recipe.loss,
        train=len(sets[0]),
        validation_edits=len(sets[1]),
        test_edits=len(sets[2]),
    )
    scores = list(trainer.scores(validation=sets[1], test=sets[2])) if recipe.kind == "token" else []
    assemble(accelerator, trainer.model)
    if accelerator.is_main_process:
        if scores:
            write_jsonl(files.scores, scores)
        save_reward_model(reward, wrapped, out, (recipe.model or backbone).name)
        write_json(files.metrics, result.as_json())
    wait_for_everyone()
    finish_tracking(accelerator)
    return result


@dataclass(frozen=True)
class Trained:
    """Of a training: the step of the best weights, all steps, and the seconds they took."""

    best_step: int
    steps: int
    seconds: float


class RewardTrainer:
    """The state of one training: model, optimizer, schedule, place in the data, best weights so far."""

    def __init__(self, recipe: Reward, reward: RewardModel, accelerator: Any, out: Path, seed: int):
        self.recipe, self.accelerator, self.out, self.seed = recipe, accelerator, out, seed
        self.best = RewardFiles(out).best
        self.reward = reward
        optimizer = adamw(reward.head, reward, recipe.optimizer)
        self.model, self.optimizer = prepare(accelerator, reward, optimizer)
        limit = recipe.optimizer.max_grad_norm
        self.stepper = Stepper(accelerator, self.model, self.optimizer, None, limit)
        self._padding = 0 if reward.split.cut else reward.padding
        self.budget = CPU_MICROBATCH_TOKENS if accelerator.device.type == "cpu" else MICROBATCH_TOKENS
        self.states = StateCache(reward.split, accelerator.device, self.budget, self._whole)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Inside, every process has the whole weights, and computes in the precision that it trains in."""
        with gathered(self.model), self.accelerator.autocast():
            yield

    def lay_out(self, edits: list[Example], apart: bool = False) -> None:
        """Decide how the model reads edits: both sides in one row, what they begin with computed once, unless
        that is little, the model cannot, or they are to be read ``apart``."""
        longest = max(len(side.ids) for example in edits for side in example.sides)
        tokens = sum(len(side.ids) for example in edits for side in example.sides)
        shared = sum(common_prefix(example.better.ids, example.worse.ids) for example in edits) / tokens
        worth = not apart and self.reward.causal and shared >= SHARED
        with gathered(self.model):
            joint = worth and self.reward.split.can_fork(longest)
        if worth and not joint:
            say(
                f"{type(self.reward.model).__name__} reads the two sides of an edit apart: what they share, "
                f"{shared:.0%} of all tokens, is computed twice."
            )
        for example in edits:
            example.lay_out(joint)

    def train(self, train: list[Example], validation: list[Example]) -> "Trained":
        """Take all steps that are not taken yet; leaves the best weights in the model."""
        recipe, accelerator = self.recipe, self.accelerator
        batch = min(recipe.batch_size, len(train))
        if batch < accelerator.num_processes:
            raise UserError(
                f"reward training: a step takes {batch} edits, and each of the {accelerator.num_processes} "
                "processes needs one. Raise reward.batch_size, add edits, or use fewer processes."
            )
        steps = math.ceil(len(train) * recipe.epochs / batch)
        every = max(1, round(len(train) * recipe.eval_every / batch))
        schedule = scheduler(self.optimizer, recipe.optimizer, steps)
        self.stepper.schedule = schedule
        settings = recipe.model_dump() | {
            "seed": self.seed,
            "edits": len(train),
            "backbone": self.reward.model.config.redline["backbone"],
            "checksum_of_edits": checksum([*train, *validation]),
        }
        checkpoints = Checkpoints(
            RewardFiles(self.out).checkpoints, accelerator, settings, self.model, self.optimizer, schedule
        )
        start, state = checkpoints.load()
        state = state or {"best": -1.0, "best_step": 0, "seconds": 0.0, "history": []}
        clock = time.monotonic() - state["seconds"]
        read = [example.rows for example in (*train, *validation)]
        with progress_bar("frozen layers", len(read), show=accelerator.is_main_process) as bar:
            self.states.fill(read, bar.advance)
        with progress_bar("reward model", steps, start, accelerator.is_main_process) as bar:
            for step in range(start, steps):
                edits = [train[row] for row in draw_rows(len(train), batch, step, self.seed)]
                loss = self.step(edits)
                if not math.isfinite(loss):
                    mine = edits[accelerator.process_index :: accelerator.num_processes]
                    path = keep_batch(self.out, self._records(mine, step))
                    raise not_finite(
                        "reward training",
                        f"the gradient of step {step + 1} is not finite",
                        f"its batch is in {path}",
                        checkpoints.newest(step),
                        "Lower reward.optimizer.lr, or use dtype float32",
                    )
                bar.advance()
                bar.note(
                    f"loss {loss:.3f}"
                    + (f" best {state['best']:.3f} at {state['best_step']}" if state["history"] else "")
                )
                if (step + 1) % every == 0 or step + 1 == steps:
                    quality = self.evaluate(validation)
                    state["history"].append({"step": step + 1, "loss": loss, **quality.numbers()})
                    accelerator.log({"loss": loss, **quality.numbers()}, step=step + 1)
                    # the comparison is this way round so that NaN, a figure that cannot be had, keeps the
                    # latest weights
                    if not quality.selection <= state["best"]:
                        state |= {"best": quality.selection, "best_step": step + 1}
                        self._save_best()
                    state["seconds"] = time.monotonic() - clock
                    checkpoints.save(step + 1, state)
        self._load_best()
        if accelerator.is_main_process:
            write_jsonl(RewardFiles(self.out).log, state["history"])
        return Trained(state["best_step"], steps, state["seconds"])

    def _records(self, batch: list[Example], step: int) -> list[JsonObject]:
        """The edits of a batch for inspection: prompts and responses as text."""
        decode = self.reward.tokenizer.decode
        return [
            {
                "step": step + 1,
                "id": example.id,
                "better": decode(example.better.ids),
                "worse": decode(example.worse.ids),
            }
            for example in batch
        ]

    def step(self, batch: list[Example]) -> float:
        """One optimizer step on a batch of edits, in micro-batches whose gradients add up to the batch's
        exactly. Returns the loss: NaN, and no step is taken, where the gradient is not finite."""
        mine = batch[self.accelerator.process_index :: self.accelerator.num_processes]
        total = self._weight(batch)
        loss_sum = torch.zeros(1, device=self.accelerator.device)
        for members, counts in self.stepper.micro_batches(
            pack([example.cost for example in mine], self.budget)
        ):
            with self.accelerator.autocast():
                loss = counts * self.loss([mine[index] for index in members]) / total
            self.stepper.backward(loss)
            loss_sum += loss.detach()
        if not math.isfinite(self.stepper.step()):
            return math.nan
        return self.accelerator.reduce(loss_sum).item()

    def _weight(self, batch: list[Example]) -> float:
        """What the summed losses of a batch are divided by: its tokens' weights, or its pairs."""
        if self.recipe.kind == "sequence" or self.recipe.loss == "pairwise":
            return len(batch)
        return sum(
            float(torch.where(side.labels == 0, 1.0, self.recipe.changed_weight).sum())
            for example in batch
            for side in example.sides
        )

    def loss(self, batch: list[Example]) -> Tensor:
        """The summed loss of some edits."""
        logits, sides = self._logits(self.model, batch)
        labels = torch.cat([side.labels for example in batch for side in example.sides]).to(logits.device)
        if self.recipe.kind == "sequence":
            return pairwise_loss(logits[0::2, 0], logits[1::2, 0])
        if self.recipe.loss == "pairwise":
            sums = torch.zeros(2 * len(batch), device=logits.device).index_add(
                0, sides, logits[:, 0] * (labels != 0)
            )
            return pairwise_loss(sums[0::2], sums[1::2])
        return classification_loss(logits, labels, self.recipe.changed_weight)[0]

    def _logits(self, model: Network, batch: list[Example]) -> tuple[Tensor, Tensor]:
        """Logits ``[N, C]`` of all response tokens (for sequence models of the last ones) of some edits, and
        for each the side it belongs to ``[N]``: 0 the first edit's better, 1 its worse, 2 the second's
        better, and so on. A token that stands for both sides gives its logits twice.
        """
        device = self.accelerator.device
        rows = [row for example in batch for row in example.rows]
        start, index, columns, sizes = 0, [], [], []
        for example in batch:
            for place, span in example.places:
                kept = span[-1:] if self.recipe.kind == "sequence" else span
                index.append(torch.full_like(kept, start + place))
                columns.append(kept)
                sizes.append(len(kept))
            start += len(example.rows)
        states = pad(self.states.inputs(rows), self._padding).to(device)
        lengths = torch.tensor([len(row.ids) for row in rows], device=device)
        logits = model(
            states,
            lengths,
            torch.cat(index).to(device),
            torch.cat(columns).to(device),
            forks_of(rows, device),
        )
        return logits, torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)).to(device)

    @torch.no_grad()
    def rewards(self, edits: list[Example]) -> list[Sides]:
        """The rewards of (better, worse) of some edits: of every token ``[R]``, or of the whole ``[1]`` for
        sequence models. Each process computes its share of the edits, and all get the whole."""
        groups = pack([example.cost for example in edits], self.budget)
        mine = [self._rewards([edits[index] for index in groups[place]]) for place in own_share(len(groups))]
        if len(mine) * self.accelerator.num_processes < len(groups):
            # sharded layers are gathered together: one that has a group less passes once more, for nothing
            self._rewards([edits[index] for index in groups[0]])
        rewards: list[Sides] = [(torch.zeros(0), torch.zeros(0))] * len(edits)
        for group, sides in zip(groups, all_shares(mine, len(groups)), strict=True):
            for index, pair in zip(group, sides, strict=True):
                rewards[index] = pair
        return rewards

    def _rewards(self, edits: list[Example]) -> list[Sides]:
        """The rewards of some edits, computed together."""
        logits, sides = self._logits(self.reward, edits)
        values = (logits[:, 0] if self.recipe.kind == "sequence" else token_rewards(logits)).cpu()
        # the parts are views of one tensor, which would travel to the other processes with each of them
        parts = [part.clone() for part in values.split(sides.bincount().tolist())]
        return list(zip(parts[0::2], parts[1::2], strict=True))

    def evaluate(self, edits: list[Example]) -> RewardQuality:
        """The quality on some edits (see ``measure``); the same in every process, so that rounding cannot
        make them disagree on which checkpoint is best."""
        from accelerate.utils import broadcast_object_list

        quality = measure(
            self.rewards(edits),
            [(example.better.labels, example.worse.labels) for example in edits],
            [not torch.equal(example.better.ids, example.worse.ids) for example in edits],
            self.recipe.kind,
            probabilities=self.recipe.loss != "pairwise",
        )
        (shared,) = broadcast_object_list([quality])
        return shared

    def scores(self, **sets: list[Example]) -> Iterator[JsonObject]:
        """Rewards and labels of every token of held-out edits, for people to look at: at most ``SHOWN`` edits
        of each set."""
        for name, edits in sets.items():
            shown = edits[:SHOWN]
            for example, rewards in zip(shown, self.rewards(shown), strict=True):
                for which, side, values in zip(("edited", "rejected"), example.sides, rewards, strict=True):
                    text, offsets = token_offsets(
                        self.reward.tokenizer, side.ids[side.prompt_size :].tolist()
                    )
                    yield {
                        "id": example.id,
                        "set": name,
                        "side": which,
                        "text": text,
                        "offsets": offsets,
                        "rewards": [round(value, 4) for value in values.tolist()],
                        "labels": side.labels.tolist(),
                    }

    def _save_best(self) -> None:
        from safetensors.torch import save_file

        weights = trained_weights(self.reward)
        if self.accelerator.is_main_process:
            with writing(self.best):
                self.out.mkdir(parents=True, exist_ok=True)
                aside = self.out / ".best.part"
                save_file(weights, aside)
                aside.replace(self.best)
        wait_for_everyone()

    def _load_best(self) -> None:
        from safetensors.torch import load_file

        if not self.best.exists():
            raise UserError(
                f"{self.best}: the best weights of this training are gone. Delete {self.out} and train again."
            )
        load_trained(self.reward, load_file(self.best))
