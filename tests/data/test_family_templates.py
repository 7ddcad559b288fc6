"""Chat templates that behave as those of Qwen3, GLM-4, gpt-oss, DeepSeek and others do: labelled from the
answer on, sampled and compared by a tiny model."""

import json
import re

import pytest
from family_templates import FAMILIES

from redline import compare
from redline.data.chat_template import CannotRender, answer
from redline.data.check import Rejects
from redline.data.records import Edit, Prompt
from redline.data.tokenization import load_tokenizer
from redline.engine.settings import Model
from redline.label.stage import label_edits
from redline.sampling.rollouts import sample_responses
from redline.sampling.settings import Sampling

ASK = [{"role": "user", "content": "was the film good ?"}]
EDIT = Edit(id="1", prompt=ASK, rejected="the film was bad", edited="the film was good")
OPENS_A_THOUGHT = ("deepseek-r1-distill", "nemotron")
OFF = {"enable_thinking": False}


def labelled(tiny_model, family, edit=EDIT, switches=None):
    tokenizer = load_tokenizer(tiny_model, chat_template=FAMILIES[family], chat_template_kwargs=switches)
    rejects = Rejects()
    return tokenizer, list(label_edits([edit], tokenizer, rejects=rejects)), rejects


def marked(tokenizer, tokens, labels) -> str:
    return tokenizer.convert_tokens_to_string([t for t, label in zip(tokens, labels, strict=True) if label])


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_begin_at_the_answer(tiny_model, family):
    switches = OFF if family in ("qwen3.5", "nemotron") else None
    closes = family == "deepseek-r1-distill"  # its thought cannot be switched off: the response closes it
    edit = EDIT
    if closes:
        sides = {"rejected": f"hm </think> {EDIT.rejected}", "edited": f"hm </think> {EDIT.edited}"}
        edit = EDIT.model_copy(update=sides)
    tokenizer, records, rejects = labelled(tiny_model, family, edit, switches)
    (record,) = records
    assert not rejects.total
    assert marked(tokenizer, record.rejected_tokens, record.rejected_labels).strip() == "bad"
    assert marked(tokenizer, record.edited_tokens, record.edited_labels).strip() == "good"


@pytest.mark.parametrize("family", ["qwen3", "qwen3.5", "glm-4", "gpt-oss"])
def test_what_stands_before_the_answer_is_said_once(tiny_model, family):
    _, _, rejects = labelled(tiny_model, family)
    (said,) = rejects.notes
    assert "before the answer" in said
    assert rejects.notes[said] == 1


@pytest.mark.parametrize("family", OPENS_A_THOUGHT)
def test_an_open_thought_names_the_key_that_helps(tiny_model, family):
    _, records, rejects = labelled(tiny_model, family)
    assert not records
    (reason,) = rejects.counts
    assert "`model.chat_template_kwargs`" in reason
    assert "enable_thinking: false" in reason


def test_a_refusal_names_the_key_that_helps(tiny_model):
    tokenizer = load_tokenizer(tiny_model, chat_template=FAMILIES["gemma"])
    with pytest.raises(CannotRender, match=r"refuses the conversation.*`model\.chat_template`.*System role"):
        answer(tokenizer, [{"role": "system", "content": "be kind"}, *ASK], "yes")


STRIPPING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'].split('</think>')[-1] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
UPPER = STRIPPING.replace(".split('</think>')[-1]", ".upper()")
THOUGHT = {"rejected": "<think>hm</think>the film was bad", "edited": "<think>hm</think>the film was good"}
SPACED = {"rejected": "the film was bad\n\n", "edited": "the film was good\n\n"}


@pytest.mark.parametrize(
    ("template", "sides", "said"),
    [
        (FAMILIES["gemma"], SPACED, "trims white space of the answer.*`model.chat_template`"),
        (
            STRIPPING,
            THOUGHT,
            "strips the thought.*`model.chat_template_kwargs` may keep it, or another template",
        ),
        (UPPER, {}, "changes the text of the answer.*`model.chat_template`"),
        (FAMILIES["gemma"], {}, None),
    ],
    ids=["trims", "strips", "changes", "writes it as it is"],
)
def test_what_a_template_loses_is_said_once_with_the_key_that_helps(tiny_model, template, sides, said):
    tokenizer = load_tokenizer(tiny_model, chat_template=template)
    rejects = Rejects()
    edits = [EDIT.model_copy(update=sides | {"id": str(number)}) for number in range(2)]
    assert len(list(label_edits(edits, tokenizer, rejects=rejects))) == 2
    if said is None:
        assert not rejects.notes
        return
    (line,) = rejects.notes
    assert re.search(said, line)
    assert rejects.notes[line] == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_and_comparison(tiny_model, family):
    model = Model(name=tiny_model, dtype="float32", chat_template=FAMILIES[family])
    prompts = [Prompt(id=str(number), prompt=ASK) for number in range(2)]
    a = sample_responses(model, prompts, Sampling(max_new_tokens=4), seed=1)
    b = sample_responses(model, prompts, Sampling(max_new_tokens=4), seed=2)
    assert "<|im_" not in json.dumps([response.response for response in [*a, *b]])
    assert 0 <= compare(a, b, "length").win_rate <= 1
