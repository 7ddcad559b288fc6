"""Scoring texts from Python."""

import pytest
import torch

from redline import TokenReward, UserError
from redline.engine.settings import Adapt, Model
from redline.reward.model import RewardModel, new_reward_model, save_reward_model
from redline.reward.settings import Reward
from redline.reward.token_reward import ScoredResponse


def trained(tiny_model: str, kind: str = "token") -> RewardModel:
    """A reward model whose head says something."""
    how = Reward(kind=kind, adapt=Adapt(lora_rank=0, train_layers=1))
    model, _ = new_reward_model(how, Model(name=tiny_model, dtype="float32"))
    torch.manual_seed(5)
    torch.nn.init.normal_(model.head.weight, std=0.5)
    return model


@pytest.fixture
def folder(tiny_model, tmp_path) -> str:
    save_reward_model(trained(tiny_model), None, tmp_path / "reward", tiny_model)
    return str(tmp_path / "reward")


def test_a_folder_scores_every_token_of_every_response(folder):
    reward = TokenReward.from_pretrained(folder)
    prompts, responses = ["the film was", "", "it"], [" good and not bad", "the film", ""]
    scored = reward.score(prompts, responses)
    assert [result.text for result in scored] == responses
    for result in scored:
        assert len(result.tokens) == len(result.offsets) == len(result.rewards)
        assert "".join(result.tokens) == result.text
        assert [result.text[start:end] for start, end in result.offsets] == result.tokens
        assert all(-1 <= value <= 1 for value in result.rewards)
        assert result.total == pytest.approx(sum(result.rewards))
    assert len(set(scored[0].rewards)) > 1
    alone = reward.score(prompts[:1], responses[:1])[0]
    assert alone.rewards == pytest.approx(scored[0].rewards, abs=1e-5)
    other_prompt = reward.score(["I liked"], responses[:1])[0]
    assert other_prompt.rewards != pytest.approx(alone.rewards, abs=1e-5)  # the prompt is read too


def test_a_conversation_goes_through_the_chat_template(folder):
    reward = TokenReward.from_pretrained(folder)
    (scored,) = reward.score([[{"role": "user", "content": "the film ?"}]], ["it was good"])
    assert scored.text == "it was good"
    assert "".join(scored.tokens) == "it was good"


def test_a_sequence_model_has_its_score_on_the_last_token(tiny_model):
    (scored,) = TokenReward(trained(tiny_model, "sequence")).score(["the film"], [" was not good"])
    assert scored.rewards[:-1] == [0.0] * (len(scored.tokens) - 1)
    assert scored.total == scored.rewards[-1] != 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("one", ["two"]), "takes lists"), ((["one"], ["two", "three"]), "1 prompts for 2 responses")],
)
def test_mistakes_are_said(tiny_model, arguments, said):
    with pytest.raises(UserError, match=said):
        TokenReward(trained(tiny_model)).score(*arguments)


def test_a_name_without_a_reward_model_is_a_user_error(tiny_model, tmp_path):
    with pytest.raises(UserError):
        TokenReward.from_pretrained(tmp_path / "nothing")


def test_a_notebook_shows_the_text_and_never_its_markup():
    scored = ScoredResponse(
        "<b>x</b> \U0001f642!",
        ["<b>x", "</b>", " ", "\U0001f642", "\U0001f642", "!"],
        [(0, 4), (4, 8), (8, 9), (9, 10), (9, 10), (10, 11)],
        [0.5, -1.0, 0.0, 0.1, 0.2, 0.3],
    )
    html = scored._repr_html_()
    assert "<b>" not in html
    assert "&lt;b&gt;x" in html
    assert html.count("\U0001f642") == 1
    assert 'title="-1.000"' in html
    assert str(scored).splitlines()[0] == "+0.50 '<b>x'"
