"""DFA-VLA as our PyTorch export stores it (`targets/hf/dfa_vla`), without its encoder and its language model, which
have their own tables.
"""

from vla_jax.convert.module_rules import PROJECTIONS, blocks, conv, linear, norm, table
from vla_jax.convert.rules import Family, Rule


def _decoder_blocks(disk: str, path: str, part: str) -> list[Rule]:
    """Stacked blocks of a transformer decoder: `self_attention` among queries beside what every block has."""
    return [
        *blocks(disk, path, part, attention="cross_attn"),
        *norm(f"{disk}.self_attn_norm", f"{path}/self_attention_norm", part),
        *(
            rule
            for theirs, ours in PROJECTIONS.items()
            for rule in linear(f"{disk}.self_attn.{theirs}", f"{path}/self_attention/{ours}", part)
        ),
    ]


FAMILY = Family(
    rules=(
        Rule(disk="frames.deviations", paths=("frames/deviations",), layout="conv3d", part="frames"),
        Rule(disk="frames.depth", paths=("frames/depth",), layout="conv3d", part="depth"),
        *linear("mvsm.projection", "mvsm/projection", "mvsm"),
        *linear("dfaf.gate.layer", "dfaf/gate/layer", "gate"),
        *linear("dfaf.gate.layer.fc1", "dfaf/gate/layer/up", "gate_mlp"),
        *linear("dfaf.gate.layer.fc2", "dfaf/gate/layer/down", "gate_mlp"),
        table("dfaf.text_query", "dfaf/text_query", "text_query"),
        table("contrast.log_temperature", "contrast/log_temperature", "temperature"),
        *conv("elementwise.convolutions.{convolution}", "elementwise/convolutions/{convolution}"),
        *linear("elementwise.visual", "elementwise/visual", "elementwise"),
        *linear("elementwise.text", "elementwise/text", "elementwise"),
        *linear("proprio", "proprio", "proprio"),
        *linear("head.reader.memory", "head/reader/memory", "queries"),
        table("head.reader.queries", "head/reader/queries", "queries"),
        *_decoder_blocks("head.reader.layers.{layer}", "head/reader/stack/blocks", "queries"),
        *norm("head.reader.norm", "head/reader/norm", "queries"),
        *linear("head.reader.mlp.fc1", "head/reader/mlp/up", "mean"),
        *linear("head.reader.mlp.fc2", "head/reader/mlp/down", "mean"),
        *linear("head.out", "head/out"),
    ),
)
