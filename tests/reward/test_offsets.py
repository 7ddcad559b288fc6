"""Rewards move by character offsets: totals stay, and a word's reward lands on the word."""

import itertools
import json
import re
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from redline.data.tokenization import encode_response
from redline.engine.rollout import Rollout
from redline.reward.offsets import carry, response_offsets, token_offsets
from redline.reward.rewards import model_reward
from tiny_tokenizers import TEXT, byte_bpe

KNOWN = [
    "the",
    "film",
    "was",
    "bad",
    "good",
    "unfair",
    "replaying",
    "안녕하세요",
    "세계",
    "😀",
    "👩‍👩‍👧",
    "naïve",
    "中文",
]
WORDS = st.lists(
    st.one_of(st.sampled_from(KNOWN), st.text("abz.!é한😀", min_size=1, max_size=4)), min_size=1, max_size=6
)
GAPS = st.sampled_from([" ", " ", "  "])


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE, or SentencePiece's Unigram with its visible space: without bytes to fall back on, or
    with them."""
    if kind == "byte-level BPE":
        return byte_bpe()
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.train_from_iterator(
        TEXT,
        trainers.UnigramTrainer(
            vocab_size=200, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
        ),
    )
    if kind == "Unigram with bytes":
        pieces = [tuple(piece) for piece in json.loads(made.to_str())["model"]["vocab"]]
        made = Tokenizer(
            models.Unigram([*pieces, *((f"<0x{byte:02X}>", -20.0) for byte in range(256))], 2, True)
        )
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


KINDS = ["byte-level BPE", "Unigram", "Unigram with bytes"]
PAIRS = [(policy, reward) for policy in KINDS for reward in KINDS]


def sampled(kind: str, words: list[str], gap: str) -> tuple[list[int], str, list[tuple[int, int]]]:
    """A response of the policy's: its ids, an end behind them, the text they stand for, and their offsets."""
    tokenizer = tokenizer_of(kind)
    ids = [*tokenizer(gap.join(words), add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return ids, *token_offsets(tokenizer, ids)


@st.composite
def tilings(draw):
    """Two ways to cut one text into ascending spans, some empty."""
    size = draw(st.integers(1, 30))
    cuts = [sorted(draw(st.lists(st.integers(0, size), max_size=12))) for _ in range(2)]
    return [list(zip([0, *cut], [*cut, size], strict=True)) for cut in cuts]


@settings(deadline=None)
@given(tilings(), st.integers(0, 1000))
def test_totals_stay(spans, seed):
    source, target = spans
    rewards = torch.randn(len(source), generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    torch.testing.assert_close(carry(rewards, source, target).sum(), rewards.sum())


@settings(deadline=None)
@given(tilings(), st.integers(0, 1000))
def test_to_the_same_spans_and_back_from_finer_ones(spans, seed):
    source, _ = spans
    source = [span for span in source if span[0] < span[1]]
    rewards = torch.randn(len(source), generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    characters = [(start, start + 1) for start in range(source[-1][1])]
    torch.testing.assert_close(carry(rewards, source, source), rewards)
    torch.testing.assert_close(carry(carry(rewards, source, characters), characters, source), rewards)


def test_a_words_reward_lands_on_the_tokens_of_that_word():
    found = carry(torch.tensor([0.0, 3.0, 0.0]), [(0, 3), (3, 9), (9, 12)], [(0, 3), (3, 5), (5, 9), (9, 12)])
    assert found.tolist() == pytest.approx([0, 1, 2, 0])


def test_nowhere_to_go():
    with pytest.raises(ValueError, match="no token"):
        carry(torch.tensor([1.0]), [(0, 2)], [])
    assert carry(torch.zeros(0), [], []).shape == (0,)


@pytest.mark.parametrize(
    "text", ["the film was good", "안녕하세요 세계", "fine 👩‍👩‍👧 day", " naïve café\n\nnew"]
)
def test_offsets_of_sampled_tokens_tile_the_text(text):
    tokenizer = byte_bpe()
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    decoded, offsets = token_offsets(tokenizer, ids)
    assert decoded == text
    assert offsets[-1] == (len(text), len(text))  # end-of-text covers nothing
    assert [start for start, _ in offsets[1:]] == [end for _, end in offsets[:-1]]
    reward = carry(torch.tensor([1.0]), [(text.index(text.split()[1]), len(text.rstrip()))], offsets)
    assert reward[: len(tokenizer(text.split()[0], add_special_tokens=False)["input_ids"])].abs().sum() == 0
    assert reward.sum() == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_offsets_of_long_responses_are_those_of_all_prefixes_whole(kind, data):
    """Any ids, as a policy may sample them: halves of characters, special tokens, spaces anywhere."""
    tokenizer = tokenizer_of(kind)
    some = st.one_of(
        st.integers(0, len(tokenizer) - 1).map(lambda one: [one]),
        st.sampled_from(KNOWN).map(lambda word: tokenizer(word, add_special_tokens=False)["input_ids"]),
    )
    ids = list(itertools.chain.from_iterable(data.draw(st.lists(some, min_size=40, max_size=150))))
    assert token_offsets(tokenizer, ids) == from_whole_prefixes(tokenizer, ids)


def test_a_stray_byte_far_behind_makes_its_run_unreadable():
    tokenizer = tokenizer_of("Unigram with bytes")
    word, run, stray, the = (
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in ("bad", "ж" * 20, "\x80", "the the")
    )
    for size in range(40):  # wherever the bytes lie in the tokens that are decoded again
        ids = [*(word * 40)[:size], *run, stray[-1], *the]
        assert tokenizer.decode(ids).endswith("\ufffd the the")
        assert token_offsets(tokenizer, ids) == from_whole_prefixes(tokenizer, ids)


def from_whole_prefixes(tokenizer, ids) -> tuple[str, list[tuple[int, int]]]:
    """What token_offsets is to give, by decoding every prefix from its beginning."""
    prefixes = [
        tokenizer.decode(ids[:size], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for size in range(len(ids) + 1)
    ]
    ends = [0]
    for prefix in prefixes[1:-1]:
        ends.append(max(ends[-1], len(prefix.rstrip("\ufffd"))))
    ends.append(max(ends[-1], len(prefixes[-1])))
    return prefixes[-1], list(itertools.pairwise(ends))


@pytest.mark.parametrize(("policy", "reward"), PAIRS)
@settings(max_examples=25, deadline=None)
@given(words=WORDS, gap=GAPS, seed=st.integers(0, 1000))
def test_totals_stay_between_tokenizers(policy, reward, words, gap, seed):
    ids, text, target = sampled(policy, words, gap)
    source = encode_response(tokenizer_of(reward), "p", text).offsets
    rewards = torch.randn(len(source), generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    found = carry(rewards, source, target)
    assert found.shape == (len(ids),)
    torch.testing.assert_close(found.sum(), rewards.sum())


@pytest.mark.parametrize(("policy", "reward"), PAIRS)
@settings(max_examples=25, deadline=None)
@given(words=WORDS, gap=GAPS, data=st.data())
def test_a_words_reward_lands_on_that_words_tokens_and_on_no_others(policy, reward, words, gap, data):
    _, text, target = sampled(policy, words, gap)
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    if not spans:  # nothing but characters that this tokenizer cannot write
        return
    start, end = data.draw(st.sampled_from(spans))
    source = encode_response(tokenizer_of(reward), "p", text).offsets
    marked = torch.tensor([float(one < end and start < other) for one, other in source], dtype=torch.double)
    found = carry(marked, source, target)
    begin = len(
        text[:start].rstrip()
    )  # white space before the word belongs to its first token, or is a token of its own
    touching = torch.tensor([one < end and begin < other for one, other in target])
    assert marked.sum() > 0
    torch.testing.assert_close(found[touching].sum(), marked.sum())
    assert not found[~touching].any()


class Marking:
    """A reward model that gives -1 to each of its tokens that belongs to the word `bad`, and nothing to
    others."""

    kind = "token"

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer

    def score(self, prompts: list[str], responses: list[str]):
        for prompt, response in zip(prompts, responses, strict=True):
            text, _, offsets = encode_response(self.tokenizer, prompt, response)
            start = text.index("bad")
            yield (
                text,
                offsets,
                torch.tensor([-float(one < start + 3 and start < other) for one, other in offsets]),
            )


@pytest.mark.parametrize(
    ("policy", "reward"), [(policy, reward) for policy, reward in PAIRS if policy != reward]
)
@pytest.mark.parametrize("text", ["the film was bad , very unfair", "안녕 😀 bad 세계", "bad"])
def test_the_reward_of_another_tokenizers_model(policy, reward, text):
    ids, _, _ = sampled(policy, [text], "")
    written, offsets = response_offsets(tokenizer_of(policy), ids, "p")
    batch = Rollout(
        prompts=["p"],
        prompt_ids=[torch.tensor([5])],
        response_ids=[torch.tensor(ids)],
        logprobs=[torch.zeros(len(ids))],
        ended=[True],
    )
    (found,) = model_reward(Marking(tokenizer_of(reward)), tokenizer_of(policy))(batch)
    start = written.index("bad")
    inside = torch.tensor([one < start + 3 and max(start - 1, 0) < other for one, other in offsets])
    assert found.sum() == pytest.approx(
        -len(
            [
                token
                for token in encode_response(tokenizer_of(reward), "p", written).offsets
                if token[0] < start + 3 and start < token[1]
            ]
        )
    )
    assert not found[~inside].any()
    assert found[-1] == 0  # the end of text is no part of the word
