"""A model cut at a layer gives what the whole model gives."""

import pytest
import torch

from redline.engine.views import Split, Tap, cache_argument
from tiny_models import CONFIGS, NO_PLAIN_STACK, random_model


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("cut", [1, 3])
def test_upper_of_lower_equals_the_whole_model(family, cut):
    model = random_model(CONFIGS[family])
    split = Split(model, cut)
    ids = torch.randint(2, 500, (3, 13), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        states = split.lower(ids)
        parts = split.upper(states)
        logits = model.get_output_embeddings()(parts)
        cap = getattr(model.config, "final_logit_softcapping", None)
        logits = logits if cap is None else torch.tanh(logits / cap) * cap
    assert split.fits
    assert split.cut == cut
    torch.testing.assert_close(logits, whole, rtol=1e-5, atol=1e-5)


class Renamed(torch.nn.Module):
    def forward(self, input_ids, cache=None):
        return cache


class Older(torch.nn.Module):
    def forward(self, input_ids, past_key_values=None):
        return past_key_values


@pytest.mark.parametrize("model", [Renamed(), Older()])
def test_the_cache_comes_by_the_name_that_a_model_has_for_it(model):
    """Transformers 5.24 renamed it; what is installed here has one of the two names, users have both."""
    cache = object()
    assert model(None, **cache_argument(model, cache)) is cache


@pytest.mark.parametrize("family", CONFIGS)
def test_right_padding_changes_nothing(family):
    model = random_model(CONFIGS[family])
    split = Split(model, 2)
    ids = torch.randint(2, 500, (1, 7), generator=torch.Generator().manual_seed(1))
    padded = torch.cat([ids, torch.full((1, 5), 3)], dim=1)
    with torch.no_grad():
        plain, wide = split.upper(split.lower(ids)), split.upper(split.lower(padded))
    torch.testing.assert_close(wide[:, :7], plain, rtol=1e-5, atol=1e-5)


def test_tap_keeps_what_enters_a_layer_and_leaves_the_model_alone():
    model = random_model(CONFIGS["llama"])
    ids = torch.randint(2, 500, (2, 6))
    tap = Tap(model, {1, 3})
    with torch.no_grad():
        seen = tap.run(input_ids=ids).last_hidden_state
        torch.testing.assert_close(seen, model.base_model(input_ids=ids).last_hidden_state)
        for cut in (1, 3):
            torch.testing.assert_close(tap.states[cut], Split(model, cut).lower(ids))
    assert [type(layer).__name__ for layer in model.base_model.layers] == ["LlamaDecoderLayer"] * 4


def test_a_model_without_a_plain_stack_falls_back_and_says_so(capsys):
    model = random_model(NO_PLAIN_STACK)
    split = Split(model, 2)
    ids = torch.randint(2, 500, (2, 6))
    assert not split.fits
    assert split.cut == 0
    assert torch.equal(split.lower(ids), ids)
    with torch.no_grad():
        torch.testing.assert_close(split.upper(ids), model.base_model(input_ids=ids).last_hidden_state)
    assert "whole passes" in capsys.readouterr().err
