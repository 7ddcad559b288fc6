"""What is computed our own way equals the libraries': LoRA's layer (PEFT), attention of short sequences
(SDPA), packed weights."""

import copy
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from redline.engine.adapters import FusedLinear, fused, joined
from redline.engine.attention import LONGEST, short_attention, use_short_attention
from redline.engine.packed import _can_pack, packed
from tiny_models import CONFIGS, random_model


def both_ways(x, dtype):
    """Outputs and gradients of PEFT's layer and of ours, with the same weights."""
    found = []
    for ours in (False, True):
        torch.manual_seed(3)
        model = torch.nn.Sequential(torch.nn.Linear(24, 40)).to(dtype).requires_grad_(False)
        config = LoraConfig(r=4, lora_alpha=12, target_modules=["0"])
        model = get_peft_model(model, fused(config) if ours else config)
        assert isinstance(model.base_model.model[0], FusedLinear) == ours
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in trained:
            assert parameter.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
            torch.nn.init.normal_(parameter, std=0.3)
        states = x.to(dtype).requires_grad_(True)
        out = model(states)
        (out.double() * torch.arange(out.numel()).view(out.shape) / out.numel()).sum().backward()
        found.append([out.detach(), states.grad, *(parameter.grad for parameter in trained)])
    return zip(*found, strict=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_lora_equals_peft_in_outputs_and_gradients(dtype, tolerance):
    torch.manual_seed(0)
    for theirs, ours in both_ways(torch.randn(3, 7, 24), dtype):
        assert theirs.dtype == ours.dtype
        assert (theirs.double() - ours.double()).norm() <= tolerance * theirs.double().norm()


class Projections(torch.nn.Module):
    """Layers of the names that are computed together, of one input or, with ``apart``, of three."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (
            torch.nn.Linear(24, size, bias=size == 16) for size in (40, 16, 8)
        )

    def forward(self, x, apart=False):
        layers = self.q_proj, self.k_proj, self.v_proj
        return torch.cat([layer(x * (1 + place) if apart else x) for place, layer in enumerate(layers)], -1)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("off", [None, "k_proj"])
def test_layers_of_one_input_together_equal_peft(apart, off):
    found = []
    for ours in (False, True):
        torch.manual_seed(3)
        config = LoraConfig(
            r=4, lora_alpha=12, target_modules=["q_proj", "k_proj", "v_proj"], init_lora_weights=False
        )
        model = get_peft_model(
            Projections().double().requires_grad_(False), fused(config) if ours else config
        )
        model = joined(model) if ours else model
        assert (model.base_model.model.q_proj.together is not None) if ours else True
        if off:
            getattr(model.base_model.model, off).enable_adapters(False)
        x = torch.randn(3, 7, 24, dtype=torch.float64).requires_grad_(True)
        out = model(x, apart=apart)
        (out * torch.arange(out.numel()).view(out.shape)).sum().backward()
        trained = [
            parameter.grad
            for name, parameter in model.named_parameters()
            if "lora" in name and (off or "none") not in name
        ]
        assert len(trained) == (4 if off else 6)
        found.append([out.detach(), x.grad, *trained])
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_lora_off_is_the_base_layer_and_merging_keeps_the_output():
    torch.manual_seed(0)
    base = torch.nn.Sequential(torch.nn.Linear(24, 40)).requires_grad_(False)
    plain = copy.deepcopy(base)
    model = get_peft_model(base, fused(LoraConfig(r=4, target_modules=["0"], init_lora_weights=False)))
    x = torch.randn(5, 24)
    with model.disable_adapter():
        assert torch.equal(model(x), plain(x))
    assert not torch.allclose(model(x), plain(x))
    adapted = model(x)
    torch.testing.assert_close(model.merge_and_unload()(x), adapted, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 12) | st.integers(60, 150),
    past=st.integers(0, 5),
    shared=st.sampled_from([1, 2, 4]),
    masked=st.booleans(),
    seed=st.integers(0, 99),
)
def test_short_attention_equals_the_fused_kernel(batch, length, past, shared, masked, seed):
    """Grouped heads, a cache in front, boolean masks as left padding makes them: values and gradients."""
    generator = torch.Generator().manual_seed(seed)
    module = SimpleNamespace(is_causal=True, num_key_value_groups=4 // shared, layer_idx=0)
    shapes = [(batch, 4, length, 8), (batch, shared, past + length, 8), (batch, shared, past + length, 8)]
    mask = None
    if masked or past:  # with a cache Transformers always gives a mask, unless a single query sees all
        mask = torch.ones(length, past + length, dtype=torch.bool).tril(past).expand(batch, 1, -1, -1).clone()
        mask[0, :, :, : past // 2] = False
    outputs = []
    for attend in (sdpa_attention_forward, short_attention):
        generator.manual_seed(seed)
        inputs = [
            torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(True)
            for shape in shapes
        ]
        out, _ = attend(module, *inputs, mask, scaling=0.3)
        out.square().sum().backward()
        outputs.append([out.detach(), *(part.grad for part in inputs)])
    for theirs, ours in zip(*outputs, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_an_additive_mask_and_long_sequences():
    torch.manual_seed(0)
    module = SimpleNamespace(is_causal=True, num_key_value_groups=2, layer_idx=0)
    query, key, value = torch.randn(2, 4, 9, 8), torch.randn(2, 2, 9, 8), torch.randn(2, 2, 9, 8)
    mask = torch.zeros(2, 1, 9, 9).masked_fill(
        torch.ones(9, 9, dtype=torch.bool).triu(1), torch.finfo(torch.float32).min
    )
    mask[:, :, 5:, 2:4] = torch.finfo(torch.float32).min
    torch.testing.assert_close(
        short_attention(module, query, key, value, mask)[0],
        sdpa_attention_forward(module, query, key, value, mask)[0],
    )
    mask = torch.ones(1, 1, 300, 300, dtype=torch.bool).tril()
    mask[..., 20, 280] = True  # one query of the first block looks ahead
    query, key, value = (torch.randn(1, heads, 300, 8) for heads in (4, 2, 2))
    for seen in (mask, torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)):
        torch.testing.assert_close(
            short_attention(module, query, key, value, seen)[0],
            sdpa_attention_forward(module, query, key, value, mask)[0],
        )
    query, key, value = (
        torch.randn(1, 4, LONGEST + 1, 8),
        torch.randn(1, 2, LONGEST + 1, 8),
        torch.randn(1, 2, LONGEST + 1, 8),
    )
    assert torch.equal(
        short_attention(module, query, key, value, None)[0],  # the kernel itself
        sdpa_attention_forward(module, query, key, value, None)[0],
    )


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_models_give_the_same_with_it(name):
    model = random_model(CONFIGS[name])
    ids = torch.randint(5, 500, (2, 11), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    before = model(input_ids=ids, attention_mask=mask).logits[:, 4:]
    use_short_attention(model)
    torch.testing.assert_close(
        model(input_ids=ids, attention_mask=mask).logits[:, 4:], before, rtol=1e-4, atol=1e-4
    )
    assert "redline" not in model.config.to_json_string(), "what runs here is no matter of the saved model"


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_packed_weights_give_the_same_and_leave_no_trace(name):
    model = random_model(CONFIGS[name]).to(torch.bfloat16)
    ids = torch.randint(5, 500, (4, 11), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        with packed(model, 4):
            assert ("forward" in model.lm_head.__dict__) == _can_pack()
            torch.testing.assert_close(model(input_ids=ids).logits, plain)
        model.lm_head.weight.zero_()  # a change of weights counts again
        assert not model(input_ids=ids).logits.any()
    with pytest.raises(KeyError), packed(model, 4):
        raise KeyError
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_layers_packed_together_may_read_different_inputs():
    model = torch.nn.ModuleDict(
        {
            name: torch.nn.Linear(32, size, bias=size == 48)
            for name, size in (("q_proj", 64), ("k_proj", 48), ("v_proj", 32))
        }
    ).to(torch.bfloat16)
    x, y = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    orders = (
        ("q_proj", x),
        ("k_proj", y),
        ("v_proj", x),
        ("v_proj", y),
        ("k_proj", x),
        ("q_proj", x),
        ("v_proj", x),
    )
    with torch.no_grad():
        plain = [model[name](given) for name, given in orders]
        with packed(model, 5):
            for (name, given), wanted in zip(orders, plain, strict=True):
                torch.testing.assert_close(model[name](given), wanted)


def test_packed_adapters_are_as_exact_and_can_be_off():
    torch.manual_seed(0)
    lm = random_model(CONFIGS["llama"]).to(torch.bfloat16)
    model = get_peft_model(
        lm, fused(LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", init_lora_weights=False))
    )
    exact = copy.deepcopy(model).double()
    ids = torch.randint(5, 500, (4, 11), generator=torch.Generator().manual_seed(1))

    def errors():
        """Of the plain and of the packed way, against double precision."""
        wanted, plain = exact(input_ids=ids).logits, model(input_ids=ids).logits
        with packed(lm, 4):
            found = model(input_ids=ids).logits
        assert torch.equal(model(input_ids=ids).logits, plain), "nothing is left behind"
        return [((logits.double() - wanted).norm() / wanted.norm()).item() for logits in (plain, found)]

    with torch.no_grad():
        plain, found = errors()
        assert found < 1.2 * plain < 0.1
        with model.disable_adapter(), exact.disable_adapter():
            plain, found = errors()
            assert found < 1.2 * plain < 0.1
