"""Chat templates that behave as those of well-known families do, in words of our own."""

TURNS = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + BODY + '<|im_end|>\n' }}{% endfor %}"
OPEN = "<|im_start|>assistant\n"
_ANSWER = "m['content'].split('</think>')[-1]"
_AS_IT_IS = "m['content']"


def _chat(body: str, to_answer: str) -> str:
    prompt = "{% if add_generation_prompt %}{{ '" + OPEN + "' }}" + to_answer + "{% endif %}"
    return TURNS.replace("BODY", body) + prompt


def _for_assistants(text: str) -> str:
    return f"(({text}) if m['role'] == 'assistant' else m['content'])"


_EMPTY_THOUGHT = "'<think>\n\n</think>\n\n' + "
_SWITCH = (
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
)
FAMILIES = {
    # an empty thought in front of the last answer; in the prompt with enable_thinking: false
    "qwen3": _chat(_for_assistants(f"({_EMPTY_THOUGHT}{_ANSWER}) if loop.last else {_ANSWER}"), _SWITCH),
    # the prompt opens the thought, the template closes it
    "qwen3.5": _chat(
        _for_assistants(f"{_EMPTY_THOUGHT}{_ANSWER}"),
        "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}"
        "{% else %}{{ '<think>\n' }}{% endif %}",
    ),
    # a line break, then an empty thought
    "glm-4": _chat(_for_assistants(f"'\n<think></think>\n' + {_ANSWER}.strip()"), ""),
    # a channel is named before the message
    "gpt-oss": _chat(_for_assistants(f"'<|channel|>final<|message|>' + {_ANSWER}"), ""),
    # earlier thoughts are dropped, and the prompt opens one
    "deepseek-r1-distill": _chat(_for_assistants(_ANSWER), "{{ '<think>\n' }}"),
    # a closed thought is all that the answer has before it
    "deepseek-v3": _chat(_for_assistants(f"'</think>' + {_ANSWER}"), "{{ '</think>' }}"),
    # an empty thought stands in the prompt
    "nemotron": _chat(
        _for_assistants(f"'<think></think>' + {_ANSWER}"),
        "{{ '<think></think>' if enable_thinking is defined and not enable_thinking else '<think>\n' }}",
    ),
    # no system message; roles alternate; all is trimmed
    "gemma": (
        "{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}" + _chat("m['content'] | trim", "")
    ),
    # a date in front, trimmed
    "llama-3": "{{ '<|im_start|>system\nCutting Knowledge Date: December 2023<|im_end|>\n' }}"
    + _chat("m['content'] | trim", ""),
}
