"""Octo as our PyTorch export stores it (`targets/hf/octo`), without CLIP's text half, which has CLIP's own table."""

from vla_jax.convert.module_rules import blocks, conv, linear, norm, table
from vla_jax.convert.rules import Family, Rule

MOST_CONVOLUTIONS = 8
"""Of a stem."""


def _stem(number: int) -> list[Rule]:
    disk, path, part = "stems.{slot}", "stems/{slot}", f"convolution {number}"
    return [
        *conv(f"{disk}.convs.{number}", f"{path}/convolutions/{number}", part),
        *norm(f"{disk}.norms.{number}", f"{path}/norms/{number}", part),
    ]


FAMILY = Family(
    rules=(
        *(rule for number in range(MOST_CONVOLUTIONS) for rule in _stem(number)),
        *conv("stems.{slot}.out", "stems/{slot}/out"),
        *linear("text_projection", "text_projection"),
        table("text_positions", "text_positions"),
        *linear("projections.{slot}", "projections/{slot}"),
        table("positions.{slot}", "positions/{slot}"),
        table("readouts", "readouts"),
        *blocks("trunk.layers.{layer}", "trunk/blocks"),
        *norm("trunk_norm", "trunk_norm"),
        table("action_head.frequencies", "head/denoiser/frequencies"),
        *linear("action_head.time_fc1", "head/denoiser/time/up"),
        *linear("action_head.time_fc2", "head/denoiser/time/down"),
        *linear("action_head.fc_in", "head/denoiser/into"),
        *norm("action_head.blocks.{block}.norm", "head/denoiser/blocks/{block}/norm"),
        *linear("action_head.blocks.{block}.fc1", "head/denoiser/blocks/{block}/mlp/up"),
        *linear("action_head.blocks.{block}.fc2", "head/denoiser/blocks/{block}/mlp/down"),
        *linear("action_head.fc_out", "head/denoiser/out"),
    ),
)
