"""Llama, Qwen2, Qwen3 and Gemma against transformers, through the importer, with wrong twins that must fail."""

import copy
import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.torch import load_file, save_file

from tests.language.decoder_twins import (
    FAMILIES,
    NORM_OFFSETS,
    Twins,
    as_torch,
    at_valid,
    build_theirs,
    build_twins,
    logits_of,
    padded_ids,
)
from tests.parity import (
    BAR,
    assert_round_trip,
    num_parameters,
    num_torch_parameters,
    ours_from,
    randomize,
    relative_error,
)
from vla_jax.convert.rules import find_family
from vla_jax.nn import attention as attention_module
from vla_jax.nn import masks
from vla_jax.nn.attention import Attention, Projections, attend
from vla_jax.nn.norms import RmsNormConfig
from vla_jax.nn.stack import Taps
from vla_jax.types import InputError

torch = pytest.importorskip("torch")

FAR = 100 * BAR
PRESETS = [(family, name) for family, (module, _) in FAMILIES.items() for name in module.PRESETS]


@pytest.fixture(scope="module", params=FAMILIES)
def twins(request, tmp_path_factory) -> Twins:
    return build_twins(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Twins:
    return build_twins("llama", tmp_path_factory.mktemp("llama"))


def their_logits(theirs, ids, positions, *, mask=None, valid=None):
    """Args: mask: [b, q, k], as what is added to scores; valid: [b, k], to which they add causality."""
    if mask is None:
        given = as_torch(valid)
    else:
        given = torch.tensor(np.where(np.asarray(mask)[:, None], 0, np.finfo(np.float32).min), dtype=torch.float32)
    with torch.no_grad():
        return theirs(input_ids=as_torch(ids), attention_mask=given, position_ids=as_torch(positions)).logits


def causal_case(*, left: bool = True):
    ids, valid = padded_ids(left=left)
    positions = np.maximum(np.cumsum(valid, axis=-1) - 1, 0)
    return ids, valid, np.asarray(masks.causal_over_valid(jnp.asarray(valid)).dense()), positions


def error(ours, theirs) -> float:
    """Of the logits at valid positions, prompts padded on the left."""
    ids, valid, mask, positions = causal_case()
    expected = their_logits(theirs, ids, positions, valid=valid)
    return relative_error(at_valid(logits_of(ours, ids, mask, positions), valid), at_valid(expected, valid))


@pytest.mark.parametrize("left", [True, False])
def test_all_hidden_states_and_logits_under_padding(twins, left):
    ids, valid, mask, positions = causal_case(left=left)
    with torch.no_grad():
        inputs = dict(zip(("input_ids", "attention_mask", "position_ids"), as_torch(ids, valid, positions)))
        expected = twins.theirs(**inputs, output_hidden_states=True)

    x, rotation = twins.ours.embed(jnp.asarray(ids)), twins.ours.rotation(jnp.asarray(positions))
    states = twins.ours.hidden_states(x, mask=jnp.asarray(mask), rotation=rotation)

    assert len(states) == len(expected.hidden_states) == twins.config.decoder.num_layers + 1
    for ours, theirs in zip(states, expected.hidden_states):
        assert relative_error(at_valid(ours, valid), at_valid(theirs, valid)) <= BAR
    logits = twins.ours.logits(states[-1])
    assert relative_error(at_valid(logits, valid), at_valid(expected.logits, valid)) <= BAR
    last_only = twins.ours.logits(states[-1][:, -1])
    np.testing.assert_allclose(last_only, logits[:, -1], rtol=1e-5, atol=1e-5)


def test_keys_and_values_of_every_layer_are_those_of_their_cache(twins):
    ids, valid, mask, positions = causal_case(left=False)
    with torch.no_grad():
        inputs = dict(zip(("input_ids", "attention_mask", "position_ids"), as_torch(ids, valid, positions)))
        cache = twins.theirs(**inputs, use_cache=True).past_key_values
    taps = Taps(projections=range(twins.config.decoder.num_layers))
    x, rotation = twins.ours.embed(jnp.asarray(ids)), twins.ours.rotation(jnp.asarray(positions))

    found = twins.ours.hidden(x, mask=jnp.asarray(mask), rotation=rotation, taps=taps).projections

    for layer, theirs in enumerate(cache.layers):
        for ours, expected in ((found.key[layer], theirs.keys), (found.value[layer], theirs.values)):
            seen = valid[:, :, None]
            assert relative_error(at_valid(ours, seen), at_valid(expected.transpose(1, 2), seen)) <= BAR


def test_any_mask_and_explicit_positions(twins):
    """Both ways over the first four tokens, causal behind, one key hidden from all but itself; positions with gaps."""
    ids, _ = padded_ids(left=True, lengths=(9, 9, 9))
    mask = np.tile(np.tril(np.ones((9, 9), bool)), (3, 1, 1))
    mask[:, :4, :4] = True
    mask[1, :, 2] = np.arange(9) == 2
    positions = np.cumsum(np.random.default_rng(2).integers(1, 5, (3, 9)), axis=-1)
    expected = their_logits(twins.theirs, ids, positions, mask=mask)

    assert relative_error(logits_of(twins.ours, ids, mask, positions), expected) <= BAR
    for wrong in ((mask, positions * 0 + np.arange(9)), (np.tril(mask), positions)):
        assert relative_error(logits_of(twins.ours, ids, *wrong), expected) > FAR


# ---- wrong twins: each must be far over the bar


def wrong_twin(twins: Twins, **fields):
    config = dataclasses.replace(twins.config, decoder=dataclasses.replace(twins.config.decoder, **fields))
    return ours_from(twins.folder, twins.family, config, checked=False)


def test_wrong_epsilon_fails_on_small_inputs(twins, tmp_path):
    """Embeddings so small that epsilon shows in the first norm."""
    small = copy.deepcopy(twins.theirs)
    with torch.no_grad():
        small.get_input_embeddings().weight.mul_(1e-2)
    small.save_pretrained(tmp_path)
    right = ours_from(tmp_path, twins.family, twins.config)
    norm = twins.config.decoder.norm
    wrong = dataclasses.replace(norm, epsilon={1e-5: 1e-6, 1e-6: 1e-5}[norm.epsilon])
    wrong_model = wrong_twin(twins._replace(folder=tmp_path), norm=wrong)

    assert error(right, small) <= BAR
    assert error(wrong_model, small) > FAR


def test_rotation_of_neighbouring_channels_fails(twins, monkeypatch):
    def interleaved(x, rotation):
        half = x.shape[-1] // 2
        cos, sin = (angle[..., :, None, :half] for angle in rotation)
        first, second = x[..., ::2], x[..., 1::2]
        return jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-1).reshape(x.shape)

    monkeypatch.setattr(attention_module, "rotate", interleaved)
    assert error(twins.ours, twins.theirs) > FAR


def test_heads_of_keys_repeated_in_tile_order_fail(twins, monkeypatch):
    """Head h reads group h mod g, where it should read h div (heads / groups)."""

    def tiled(query, key, value, mask=None, **options):
        b, n, heads, f = query.shape
        groups = key.shape[2]
        by_group = query.reshape(b, n, heads // groups, groups, f).swapaxes(2, 3).reshape(query.shape)
        attended = attend(by_group, key, value, mask, **options)
        return attended.reshape(b, n, groups, heads // groups, f).swapaxes(2, 3).reshape(query.shape)

    monkeypatch.setattr(attention_module, "attend", tiled)
    assert error(twins.ours, twins.theirs) > FAR


def test_wrong_theta_and_wrong_activation_fail(twins):
    assert error(wrong_twin(twins, theta=5e5), twins.theirs) > FAR
    other = "gelu" if twins.config.decoder.activation == "silu" else "silu"
    assert error(wrong_twin(twins, activation=other), twins.theirs) > FAR


def test_qwen3_with_heads_normed_after_rotation_or_not_at_all_fails(tmp_path, monkeypatch):
    twins = build_twins("qwen3", tmp_path)
    assert error(twins.ours, twins.theirs) <= BAR

    def late(self, x, memory=None, *, rotation=None):
        query, key, value = self._heads(self.query(x)), self._heads(self.key(x)), self._heads(self.value(x))
        query, key = (attention_module.rotate(heads, rotation) for heads in (query, key))
        return Projections(self.query_norm(query), self.key_norm(key), value)

    monkeypatch.setattr(Attention, "projections", late)
    assert error(twins.ours, twins.theirs) > FAR


def test_gemma_without_its_offset_or_its_embedding_factor_fails(tmp_path):
    twins = build_twins("gemma", tmp_path)
    assert error(twins.ours, twins.theirs) <= BAR
    assert error(wrong_twin(twins, norm=RmsNormConfig(epsilon=1e-6)), twins.theirs) > FAR
    assert error(wrong_twin(twins, embedding_factor=1.0), twins.theirs) > FAR
    assert error(wrong_twin(twins, activation="gelu"), twins.theirs) > BAR  # the tanh approximation is close


# ---- heads


def with_tied_head(family: str, *, is_tied: bool):
    config = FAMILIES[family][0].tiny()
    return dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, tied_head=is_tied))


@pytest.mark.parametrize("is_tied", [True, False])
def test_heads_tied_or_not(tmp_path, is_tied):
    twins = build_twins("qwen2", tmp_path, with_tied_head("qwen2", is_tied=is_tied))
    assert (twins.ours.head is None) is is_tied
    assert error(twins.ours, twins.theirs) <= BAR
    assert_round_trip(tmp_path, "qwen2", twins.ours)


def test_an_untied_head_is_not_the_token_table(llama):
    wrong = nnx.clone(llama.ours)
    wrong.head = None
    assert error(wrong, llama.theirs) > FAR
    with pytest.raises(InputError, match=r"lm_head.weight .* differs"):
        ours_from(llama.folder, "llama", with_tied_head("llama", is_tied=True), checked=False)


def test_a_tied_file_may_hold_its_head_with_the_same_bits_only(tmp_path):
    twins = build_twins("qwen2", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in tensors
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    again = ours_from(tmp_path, "qwen2", twins.config)
    np.testing.assert_array_equal(again.tokens[...], twins.ours.tokens[...])

    tensors["lm_head.weight"][3, 4] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"lm_head.weight .* differs"):
        ours_from(tmp_path, "qwen2", twins.config)


# ---- files and settings


def test_round_trip_is_bit_exact(twins):
    assert_round_trip(twins.folder, twins.family, twins.ours)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_attention_biases_are_read_where_a_file_has_them(tmp_path, family):
    module = FAMILIES[family][0]
    config = module.from_settings(module.tiny().settings() | {"attention_bias": True})
    twins = build_twins(family, tmp_path, config)
    assert error(twins.ours, twins.theirs) <= BAR
    assert_round_trip(tmp_path, family, twins.ours)
    with pytest.raises(InputError, match="attention_bias is True, this model has False"):
        ours_from(tmp_path, family, module.tiny())


def test_a_base_model_saved_without_the_prefix_is_read(tmp_path):
    config = with_tied_head("llama", is_tied=True)
    theirs = randomize(build_theirs("llama", config, kind="Model"))
    theirs.save_pretrained(tmp_path)
    assert "layers.0.self_attn.q_proj.weight" in load_file(tmp_path / "model.safetensors")

    ours = ours_from(tmp_path, "llama", config)

    np.testing.assert_array_equal(ours.tokens[...], theirs.embed_tokens.weight.detach().numpy())


def test_frequencies_in_early_files_are_left_alone_and_nothing_else(tmp_path):
    twins = build_twins("llama", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for layer in range(3):
        tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(5)
    save_file(tensors, tmp_path / "model.safetensors")
    assert error(ours_from(tmp_path, "llama", twins.config), twins.theirs) <= BAR

    save_file({**tensors, "model.layers.0.self_attn.q_proj.scale": torch.ones(5)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"q_proj\.scale"):
        ours_from(tmp_path, "llama", twins.config)


def test_settings_come_back_from_their_config(twins):
    """As transformers 5 writes it, as releases have it, and with what transformers assumes where it is silent."""
    module, family = FAMILIES[twins.family][0], find_family(twins.family)
    written = json.loads((twins.folder / "config.json").read_text())
    assert "rope_theta" not in written
    released = twins.config.settings() | {"model_type": twins.family}
    for config in (written, released):
        again = module.from_settings(family.settings(config))
        assert again.settings() == twins.config.settings()
        assert again == twins.config


def test_defaults_are_those_of_transformers(twins):
    import transformers

    family, module = find_family(twins.family), FAMILIES[twins.family][0]
    default = getattr(transformers, f"{FAMILIES[twins.family][1]}Config")()
    silent = module.from_settings(family.settings({})).settings()
    assert silent == module.from_settings(family.settings(default.to_dict())).settings()


@pytest.mark.parametrize(
    ("family", "changed", "message"),
    [
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling is {'rope_type': 'linear'"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "rope_scaling is .*llama3"),
        ("llama", {"mlp_bias": True}, "mlp_bias is True, expected False"),
        ("llama", {"hidden_act": "swish"}, "hidden_act is 'swish', expected one of"),
        ("llama", {"model_type": "mistral"}, "model_type is 'mistral', expected 'llama'"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window is True, expected False"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types has .'sliding_attention'."),
        ("gemma", {"attention_bias": True}, "attention_bias is True, expected False"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True, expected False"),
    ],
)
def test_what_is_not_supported_is_refused(family, changed, message):
    module = FAMILIES[family][0]
    with pytest.raises(InputError, match=message):
        module.from_settings(find_family(family).settings(module.tiny().settings() | changed))


def test_gemma_releases_say_gelu_and_mean_tanh():
    found = find_family("gemma").settings(FAMILIES["gemma"][0].tiny().settings() | {"hidden_act": "gelu"})
    assert FAMILIES["gemma"][0].from_settings(found) == FAMILIES["gemma"][0].tiny()


@pytest.mark.parametrize(("family", "name"), PRESETS)
def test_parameters_of_the_presets(family, name):
    config = FAMILIES[family][0].PRESETS[name]()
    assert num_parameters(config) == num_torch_parameters(lambda: build_theirs(family, config))


@pytest.mark.parametrize(
    ("family", "name", "count"),
    [
        ("llama", "llama2_7b", 6_738_415_616),
        ("llama", "llama2_13b", 13_015_864_320),
        ("qwen2", "qwen2_5_0_5b", 494_032_768),
        ("qwen2", "qwen2_5_1_5b", 1_543_714_304),
        ("qwen2", "qwen2_5_3b", 3_085_938_688),
        ("qwen2", "qwen2_5_7b", 7_615_616_512),
        ("qwen3", "qwen3_0_6b", 596_049_920),
        ("qwen3", "qwen3_4b", 4_022_468_096),
        ("qwen3", "qwen3_8b", 8_190_735_360),
        ("gemma", "gemma_2b", 2_506_172_416),
        ("gemma", "gemma_7b", 8_537_680_896),
    ],
)
def test_published_parameter_counts(family, name, count):
    """As the releases' own files add up to."""
    assert num_parameters(FAMILIES[family][0].PRESETS[name]()) == count


def test_norm_offsets_are_those_of_the_families():
    offsets = {family: module.tiny().decoder.norm.offset for family, (module, _) in FAMILIES.items()}
    assert offsets == {family: 1.0 - NORM_OFFSETS.get(family, 1.0) for family in FAMILIES}
