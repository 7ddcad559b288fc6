"""Model cards: what the Hub reads in them, and whose text they leave alone."""

import json
from pathlib import Path

import pytest
import yaml

from redline.report.cards import FROM_PEFT, MARK, policy_card, reward_card, write_cards


def front(card: str) -> dict[str, object]:
    _, block, _ = card.split("---\n", 2)
    return yaml.safe_load(block)  # type: ignore[no-any-return]


def test_front_matter(run: Path) -> None:
    reward, policy = front(reward_card(run)), front(policy_card(run))
    assert reward["pipeline_tag"] == "token-classification"
    assert reward["library_name"] == "transformers"
    assert policy["library_name"] == "transformers"
    assert reward["base_model"] == policy["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "datasets" not in reward  # local files are no data sets of the Hub
    metric = policy["model-index"][0]["results"][0]["metrics"][0]  # type: ignore[index]
    assert (metric["name"], metric["value"]) == ("win rate over the base model", 0.8)


def test_hub_accepts_the_metadata(run: Path) -> None:
    cards = pytest.importorskip("huggingface_hub").ModelCard
    for card in (reward_card(run), policy_card(run)):
        data = cards(card).data
        assert data.eval_results
        assert data.model_name == "made-up"


def test_figures(run: Path) -> None:
    assert "| token AUC | 0.972 |" in reward_card(run)
    assert "On 8 held-out edits (test set)" in reward_card(run)
    assert "(95 % interval 68.8\u00a0% to 90.0\u00a0%)" in policy_card(run)
    assert "- edits: `edits.jsonl`, 40 records" in policy_card(run)


def test_sequence_model_and_full_fine_tuning(run: Path) -> None:
    recipe = run / "recipe.yaml"
    recipe.write_text(
        recipe.read_text()
        .replace("reward: {", "reward: {kind: sequence, ")
        .replace("updates: 12", "updates: 12, adapt: {lora_rank: 0}")
        .replace("path: edits.jsonl", "path: someone/edits")
    )
    assert front(reward_card(run))["pipeline_tag"] == "text-classification"
    assert front(reward_card(run))["datasets"] == ["someone/edits"]
    assert front(policy_card(run))["library_name"] == "transformers"


def test_the_card_of_a_policy_says_how_it_was_made(run: Path) -> None:
    assert "| KL target, nats a response | 6.0 |" in policy_card(run)
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe + "direct: {method: dpo, beta: 0.3, batch_size: 7}\n")
    card = policy_card(run)
    assert "| beta | 0.3 |" in card
    assert "| edits a step | 7 |" in card
    assert "KL target" not in card  # PPO's
    assert "responses an update" not in card
    (run / "recipe.yaml").write_text(recipe + "sft: {}\n")
    card = policy_card(run)
    assert "the adapter belongs on that model" in card
    assert "| win rate over the SFT model | 80.0" in card
    assert "base model |" not in card.replace("| base model | smollm2-135m |", "")


def test_written_beside_the_models(run: Path) -> None:
    (run / "reward/config.json").write_text("{}")
    (run / "policy/README.md").write_text(f"# Model Card\n{FROM_PEFT}")
    assert write_cards(run) == [run / "reward/README.md", run / "policy/README.md"]
    card = run / "reward/README.md"
    card.write_text(card.read_text().replace(MARK, "") + "My own words.")
    assert write_cards(run) == [run / "policy/README.md"]
    assert card.read_text().endswith("My own words.")


def test_hostile_name(run: Path) -> None:
    result = json.loads((run / "winrate.json").read_text())
    (run / "winrate.json").write_text(json.dumps(result | {"judge": "a | <img src=x>\n# big"}))
    assert "| judge | a \\| &lt;img src=x> # big |" in policy_card(run)
