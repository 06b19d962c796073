"""Rules of the modules in `vla_jax/nn`, under the names that PyTorch's modules give their tensors."""

from vla_jax.convert.rules import Rule


def norm(disk: str, path: str, part: str = "") -> list[Rule]:
    return [
        Rule(disk=f"{disk}.weight", paths=(f"{path}/scale",), part=part),
        Rule(disk=f"{disk}.bias", paths=(f"{path}/bias",), part=part),
    ]


def linear(disk: str, path: str, part: str = "") -> list[Rule]:
    return [
        Rule(disk=f"{disk}.weight", paths=(f"{path}/kernel",), layout="transpose", part=part),
        Rule(disk=f"{disk}.bias", paths=(f"{path}/bias",), part=part),
    ]


def blocks(disk: str, path: str, part: str = "", *, attention: str = "self_attn") -> list[Rule]:
    """Stacked pre-norm blocks. Args: disk: ends in `{layer}`; path: of the stacked blocks."""
    projections = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
    return [
        *norm(f"{disk}.layer_norm1", f"{path}/attention_norm", part),
        *(
            rule
            for theirs, ours in projections.items()
            for rule in linear(f"{disk}.{attention}.{theirs}", f"{path}/attention/{ours}", part)
        ),
        *norm(f"{disk}.layer_norm2", f"{path}/mlp_norm", part),
        *linear(f"{disk}.mlp.fc1", f"{path}/mlp/up", part),
        *linear(f"{disk}.mlp.fc2", f"{path}/mlp/down", part),
    ]
