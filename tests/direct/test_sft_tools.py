"""Tools and the template's switches reach TRL's trainer too."""

from redline.data.records import Edit
from redline.data.tokenization import load_tokenizer
from redline.direct.settings import Sft
from redline.direct.sft import train_sft
from redline.engine.settings import Model
from tiny_tokenizers import CHATML

TEMPLATE = "{% for t in tools or [] %}{{ t.name }}{% endfor %}{% if shout %}!{% endif %}" + CHATML


def test_sft_renders_as_every_other_stage(tmp_path, tiny_model, monkeypatch):
    from transformers import PreTrainedTokenizerBase

    rendered = []
    original = PreTrainedTokenizerBase.apply_chat_template

    def watched(self, conversation, *args, **options):
        rendered.append((options.get("tools"), options.get("shout")))
        return original(self, conversation, *args, **options)

    ask = {"role": "user", "content": "Was the film good?"}
    edits = [
        Edit(id="1", prompt=[ask | {"tools": [{"name": "f"}]}], rejected="bad", edited="good"),
        Edit(id="2", prompt=[ask], rejected="bad", edited=[{"role": "assistant", "content": "good film"}]),
    ]
    model = Model(name=tiny_model, chat_template=TEMPLATE, chat_template_kwargs={"shout": True})
    monkeypatch.setattr(PreTrainedTokenizerBase, "apply_chat_template", watched)
    train_sft(Sft(lora_rank=2, batch_size=2, epochs=1), model, edits, tmp_path / "sft")
    assert ([{"name": "f"}], True) in rendered
    assert (None, True) in rendered
    saved = load_tokenizer(str(tmp_path / "sft"))
    assert saved.init_kwargs["chat_template_kwargs"] == {"shout": True}
    assert saved.chat_template == TEMPLATE
