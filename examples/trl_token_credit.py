"""TRL's GRPO with credit for each token, from a reward model that was trained on edits.

    make demo                                  # once: trains runs/demo/reward
    python examples/trl_token_credit.py        # a quarter of an hour on two CPU cores

Without ``--credit`` the same reward is given to whole completions: plain GRPO.
"""

import argparse

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

import redline
from redline.embedded import EMBEDDED, resolve
from redline.integrations.trl import TokenCreditTrainer, TokenRewardFunction


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--model", default=EMBEDDED, help="a folder, a Hugging Face name, or the embedded model"
    )
    parser.add_argument("--reward", default="runs/demo/reward", help="a reward model's folder")
    parser.add_argument("--prompts", default="recipes/quickstart/edits.jsonl", help="records with a prompt")
    parser.add_argument("--out", default="runs/trl", help="the trained adapter")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--credit", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()

    folder = resolve(arguments.model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    prompts = redline.read_records(arguments.prompts, redline.Prompt)

    reward = TokenRewardFunction(arguments.reward, tokenizer)
    trainer_class = TokenCreditTrainer if arguments.credit else GRPOTrainer
    trainer = trainer_class(
        model=model,
        reward_funcs=[reward],  # more functions may stand beside it: they count for whole completions
        args=GRPOConfig(
            output_dir=arguments.out,
            max_steps=arguments.steps,
            per_device_train_batch_size=16,
            num_generations=4,  # completions of a prompt: the group that advantages are measured against
            max_completion_length=32,
            temperature=0.7,
            learning_rate=2e-4,
            beta=0.05,  # holds the policy near its reference
            scale_rewards="none",  # token rewards have a scale of their own; see docs/integrations.md
            bf16=torch.accelerator.is_available(),
            logging_steps=1,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=Dataset.from_list([{"prompt": prompt.prompt} for prompt in prompts]),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model(arguments.out)
    rewards = [line["reward"] for line in trainer.state.log_history if "reward" in line]
    tenth = max(1, len(rewards) // 10)
    first, last = sum(rewards[:tenth]) / tenth, sum(rewards[-tenth:]) / tenth
    print(f"mean reward of a completion: {first:.2f} in the first steps, {last:.2f} in the last")


if __name__ == "__main__":
    main()
