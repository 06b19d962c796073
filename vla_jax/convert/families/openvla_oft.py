"""OpenVLA-OFT as our PyTorch export stores it, without its vision-language model, which has OpenVLA's own table."""

from vla_jax.convert.module_rules import linear, norm
from vla_jax.convert.rules import Family


def _films(tower: str) -> list:
    rules = [linear(f"film.{tower}.{{layer}}.{name}", f"film/{tower}/{name}", "film") for name in ("scale", "shift")]
    return [rule for pair in rules for rule in pair]


FAMILY = Family(
    rules=(
        *_films("dino"),
        *_films("siglip"),
        *linear("proprio_projector.fc1", "proprio/first", "proprio"),
        *linear("proprio_projector.fc2", "proprio/second", "proprio"),
        *norm("action_head.in_norm", "head/in_norm"),
        *linear("action_head.fc_in", "head/into"),
        *norm("action_head.blocks.{block}.norm", "head/blocks/{block}/norm"),
        *linear("action_head.blocks.{block}.linear", "head/blocks/{block}/linear"),
        *norm("action_head.out_norm", "head/out_norm"),
        *linear("action_head.fc_out", "head/out"),
    ),
)
