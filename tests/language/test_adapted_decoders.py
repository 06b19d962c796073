"""Adapters and int8 on a language model: PEFT's Llama with our adapter, and how far off int8 is.

Axes: b batch, n tokens, l layers.
"""

import jax
import numpy as np
import peft
import pytest
import torch
from flax import nnx

from tests.language.decoder_twins import as_torch, at_valid, build_twins, logits_of, padded_ids
from tests.parity import BAR, relative_error
from vla_jax import parameters as parameter_paths
from vla_jax.convert.export import Adapters
from vla_jax.convert.rules import disk_tensors, find_family
from vla_jax.convert.targets.peft import write_adapter
from vla_jax.nn.lora import LoraConfig
from vla_jax.nn.quantization import QuantizationConfig

LORA = LoraConfig(targets=("stack/blocks/attention/(query|value|out)", "stack/blocks/mlp/.*"), rank=2, alpha=6.0)


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    return build_twins("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def inputs():
    ids, valid = padded_ids(left=False)
    length = valid.shape[1]
    causal = np.tril(np.ones((length, length), bool)) & valid[:, None, :]
    positions = np.broadcast_to(np.arange(length), valid.shape)
    return ids, valid, causal, positions


def logits(module, inputs):
    structure, parameters = parameter_paths.split(module)
    ids, valid, causal, positions = inputs
    found = jax.jit(lambda parameters: logits_of(structure.merge(parameters), ids, causal, positions))(parameters)
    return at_valid(found, valid)


def clone(module):
    structure, parameters = parameter_paths.split(module)
    return structure.merge(dict(parameters))


def test_peft_llama_with_our_adapter_computes_our_logits(twins, inputs, tmp_path):
    ours = clone(twins.ours)
    LORA.apply(ours, nnx.Rngs(0))
    structure, parameters = parameter_paths.split(ours)
    generator = np.random.default_rng(0)
    parameters = {
        path: generator.normal(size=array.shape).astype(np.float32) / 4 if "lora" in path else np.asarray(array)
        for path, array in parameters.items()
    }
    expected = logits(structure.merge(jax.device_put(parameters)), inputs)
    adapters = Adapters(
        rank=LORA.rank, alpha=LORA.alpha, parameters=parameters, trained=frozenset({"final_norm/scale"})
    )
    shapes = {path: jax.ShapeDtypeStruct(array.shape, array.dtype) for path, array in adapters.base().items()}
    write_adapter(tmp_path / "adapter", disk_tensors(find_family("llama").rules, shapes), adapters)
    theirs = peft.PeftModel.from_pretrained(type(twins.theirs).from_pretrained(twins.folder), tmp_path / "adapter")
    ids, valid, _, positions = inputs
    with torch.no_grad():
        found = theirs(*as_torch(ids, valid), position_ids=as_torch(positions)).logits
    assert relative_error(at_valid(found, valid), expected) < BAR
    assert relative_error(logits(twins.ours, inputs), expected) > 0.05


@pytest.mark.parametrize(("mode", "bar"), [("weight_only", 0.02), ("dynamic", 0.03)])
def test_int8_logits_are_close_and_embeddings_and_head_are_left_alone(twins, inputs, mode, bar):
    """Weights as they are drawn: those of the twins are so large that attention is a choice of one token."""
    plain, ours = (twins.config.build(nnx.Rngs(0)) for _ in range(2))
    QuantizationConfig(mode=mode).apply(ours)
    expected, found = logits(plain, inputs), logits(ours, inputs)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 1e-4 < error < bar
    (_, before), (_, after) = parameter_paths.split(plain), parameter_paths.split(ours)
    outside = {path for path in before if "blocks/" not in path}
    assert len(outside) > 2
    for path in outside:
        np.testing.assert_array_equal(after[path], before[path])
