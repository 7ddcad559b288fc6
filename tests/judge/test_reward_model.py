"""Reward models as judges: tiny random ones, saved and loaded as anyone's would be."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tokenizers import Tokenizer, models, pre_tokenizers, processors  # noqa: E402
from transformers import (  # noqa: E402
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    PreTrainedTokenizerFast,
)

from redline.errors import UserError  # noqa: E402
from redline.judge.judges import load_judge  # noqa: E402
from redline.judge.reward_model import encode_pair  # noqa: E402

WORDS = [
    "[PAD]",
    "[CLS]",
    "[SEP]",
    "[UNK]",
    "the",
    "food",
    "was",
    "good",
    "bad",
    "very",
    "and",
    "cold",
    "warm",
    "here",
]
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
PROMPTS = ["the food", "the food", "the very food here"]
A = ["was good", "was bad and cold here", "was warm and good and good"]
B = ["was bad", "was good", "was"]


def tokenizer(separator: bool) -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, "[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    if separator:
        raw.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
        )
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]"} if separator else {}
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", pad_token="[PAD]", **special)


def saved(folder: Path, model, separator: bool = False) -> str:
    torch.manual_seed(3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(folder)
    tokenizer(separator).save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def single_precision(monkeypatch):
    from redline.engine import models as backbones

    monkeypatch.setattr(backbones, "dtype_of", lambda model: torch.float32)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_sequence_model_judges_by_its_logit(tmp_path, bidirectional):
    kind = BertForSequenceClassification if bidirectional else LlamaForSequenceClassification
    config = kind.config_class(**SIZES, num_labels=1, pad_token_id=0)
    name = saved(tmp_path / "model", kind(config), separator=bidirectional)
    judge = load_judge(name)
    model, words = kind.from_pretrained(name).eval(), tokenizer(bidirectional)

    def alone(prompt: str, response: str) -> float:  # one at a time, unpadded
        texts = (prompt, response) if bidirectional else (f"{prompt} {response}",)
        encoded = words(*texts, return_tensors="pt")
        with (
            torch.no_grad()
        ):  # a pair as the library's users give it: BERT is told which text each token belongs to
            return model(**encoded if bidirectional else {"input_ids": encoded["input_ids"]}).logits.item()

    prompts = [prompt + " " for prompt in PROMPTS]
    scores = judge.score(prompts, A)
    assert scores == pytest.approx([alone(*pair) for pair in zip(PROMPTS, A, strict=True)], abs=1e-4)
    expected = [
        float(alone(prompt, a) > alone(prompt, b)) for prompt, a, b in zip(PROMPTS, A, B, strict=True)
    ]
    assert judge.prefer(prompts, A, B) == expected
    assert not judge.both_orders


def test_a_token_model_judges_by_the_sum_over_the_response(tmp_path):
    labels = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
    name = saved(
        tmp_path / "model", LlamaForTokenClassification(LlamaConfig(**SIZES, **labels, pad_token_id=0))
    )
    judge = load_judge(name)
    model, words = LlamaForTokenClassification.from_pretrained(name).eval(), tokenizer(False)
    for prompt, response, score in zip(PROMPTS, A, judge.score(PROMPTS, A), strict=True):
        ids = torch.tensor([words(f"{prompt} {response}")["input_ids"]])
        with torch.no_grad():
            chance = model(input_ids=ids).logits[0].softmax(-1)
        rewards = (chance[:, 1] - chance[:, 0])[len(words(prompt)["input_ids"]) :]
        assert score == pytest.approx(rewards.sum().item(), abs=1e-4)


def test_a_model_trained_again_into_the_same_folder_is_another_judge(tmp_path):
    config = LlamaConfig(**SIZES, num_labels=1, pad_token_id=0)
    name = saved(tmp_path / "model", LlamaForSequenceClassification(config))
    before = load_judge(name).settings
    assert load_judge(name).settings == before
    saved(tmp_path / "model", LlamaForSequenceClassification(config))
    assert load_judge(name).settings != before


def test_what_is_not_a_reward_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"not a reward model \(LlamaForCausalLM"):
        load_judge(saved(tmp_path / "lm", LlamaForCausalLM(LlamaConfig(**SIZES, pad_token_id=0))))
    with pytest.raises(UserError, match="3 labels"):
        load_judge(
            saved(tmp_path / "three", LlamaForSequenceClassification(LlamaConfig(**SIZES, num_labels=3)))
        )


def test_conversations_go_through_the_chat_template():
    words = tokenizer(False)
    words.chat_template = (
        "{% for m in messages %}{{ m['role'] == 'user' and 'the' or 'food' }} {{ m['content'] }} {% endfor %}"
    )
    ids, _ = encode_pair(words, [{"role": "user", "content": "was"}], "good")
    assert ids == [WORDS.index(word) for word in ("the", "was", "food", "good")]


def test_what_is_too_long_is_cut_but_keeps_its_separators(tmp_path):
    config = BertForSequenceClassification.config_class(
        **SIZES, num_labels=1, pad_token_id=0, max_position_embeddings=8
    )
    judge = load_judge(saved(tmp_path / "model", BertForSequenceClassification(config), separator=True))
    assert judge.score(["the food"], ["was good and " * 9]) == judge.score(["the food"], ["was good and"])
    assert encode_pair(tokenizer(True), "the food", "was good and " * 9, 8)[0][::7] == [
        1,
        2,
    ]  # [CLS] first, [SEP] last
    assert encode_pair(tokenizer(False), "the very cold ", "food was good", 2)[0] == [
        WORDS.index("was"),
        WORDS.index("good"),
    ]
