"""Rules of the modules in `vla_jax/nn`, under the names that PyTorch's modules give their tensors."""

from collections.abc import Sequence

from vla_jax.convert.rules import Rule


def table(disk: str, path: str, part: str = "", *, unit_axes: int = 0) -> Rule:
    """A tensor that is the same on both sides."""
    return Rule(disk=disk, paths=(path,), part=part, unit_axes=unit_axes)


def scale(disk: str, path: str, part: str = "") -> Rule:
    """Of a norm without a bias."""
    return Rule(disk=f"{disk}.weight", paths=(f"{path}/scale",), part=part)


def norm(disk: str, path: str, part: str = "") -> list[Rule]:
    return [scale(disk, path, part), Rule(disk=f"{disk}.bias", paths=(f"{path}/bias",), part=part)]


def kernel(disk: str, path: str, part: str = "") -> Rule:
    """Of a linear layer without a bias."""
    return Rule(disk=f"{disk}.weight", paths=(f"{path}/kernel",), layout="transpose", part=part)


def linear(disk: str, path: str, part: str = "") -> list[Rule]:
    return [kernel(disk, path, part), Rule(disk=f"{disk}.bias", paths=(f"{path}/bias",), part=part)]


def fused_linear(disk: str, paths: Sequence[str], part: str = "") -> list[Rule]:
    """Linear layers of one input whose outputs lie side by side in one tensor (fused q, k, v)."""
    return [
        Rule(disk=f"{disk}.weight", paths=tuple(f"{p}/kernel" for p in paths), layout="transpose", part=part),
        Rule(disk=f"{disk}.bias", paths=tuple(f"{p}/bias" for p in paths), part=part),
    ]


def conv(disk: str, path: str, part: str = "") -> list[Rule]:
    return [
        Rule(disk=f"{disk}.weight", paths=(f"{path}/kernel",), layout="conv", part=part),
        Rule(disk=f"{disk}.bias", paths=(f"{path}/bias",), part=part),
    ]


PROJECTIONS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
"""Theirs -> ours."""


def blocks(disk: str, path: str, part: str = "", *, attention: str = "self_attn") -> list[Rule]:
    """Stacked pre-norm blocks. Args: disk: ends in `{layer}`; path: of the stacked blocks."""
    return [
        *norm(f"{disk}.layer_norm1", f"{path}/attention_norm", part),
        *(
            rule
            for theirs, ours in PROJECTIONS.items()
            for rule in linear(f"{disk}.{attention}.{theirs}", f"{path}/attention/{ours}", part)
        ),
        *norm(f"{disk}.layer_norm2", f"{path}/mlp_norm", part),
        *linear(f"{disk}.mlp.fc1", f"{path}/mlp/up", part),
        *linear(f"{disk}.mlp.fc2", f"{path}/mlp/down", part),
    ]


def gated_mlp(disk: str, path: str, part: str = "") -> list[Rule]:
    """Without biases, as language models have it."""
    return [kernel(f"{disk}.{name}_proj", f"{path}/{name}", part) for name in ("gate", "up", "down")]


def decoder_blocks(disk: str, path: str, part: str = "") -> list[Rule]:
    """Stacked blocks of a language model, without what only some have: biases, norms of the heads."""
    projections = PROJECTIONS | {"o_proj": "out"}
    del projections["out_proj"]
    return [
        scale(f"{disk}.input_layernorm", f"{path}/attention_norm", part),
        *(kernel(f"{disk}.self_attn.{a}", f"{path}/attention/{b}", part) for a, b in projections.items()),
        scale(f"{disk}.post_attention_layernorm", f"{path}/mlp_norm", part),
        *gated_mlp(f"{disk}.mlp", f"{path}/mlp", part),
    ]
