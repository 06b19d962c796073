"""QwenVLA-OFT as our PyTorch export stores it (`targets/hf/qwenvla_oft`); its Qwen3-VL has its own table."""

from vla_jax.convert.module_rules import linear
from vla_jax.convert.rules import Family

FAMILY = Family(
    rules=(
        *linear("proprio_encoder", "reader/proprio", "proprio"),
        *linear("action_head.hidden", "head/hidden"),
        *linear("action_head.out", "head/out"),
    ),
)
