"""EF-VLA as our PyTorch export stores it (`targets/hf/ef_vla`), without its CLIP, which has CLIP's own table."""

from vla_jax.convert.module_rules import PROJECTIONS, blocks, linear, norm
from vla_jax.convert.rules import Family, Rule


def _pooling(disk: str, path: str, part: str) -> list[Rule]:
    """Attention pooling, or one linear layer."""
    return [
        Rule(disk=f"{disk}.queries", paths=(f"{path}/queries",), part=part),
        *blocks(f"{disk}.layers.{{layer}}", f"{path}/stack/blocks", part, attention="cross_attn"),
        *norm(f"{disk}.final_norm", f"{path}/final_norm", f"{part}_final_norm"),
        *linear(f"{disk}.projection", f"{path}/projection", f"{part}_linear"),
    ]


def _fusion() -> list[Rule]:
    disk, path = "fusion.{slot}", "fusion/{slot}"
    cross = [linear(f"{disk}.{theirs}", f"{path}/cross/{ours}", "cross") for theirs, ours in PROJECTIONS.items()]
    return [
        Rule(disk=f"{disk}.log_scale", paths=(f"{path}/log_scale",), part="log_scale"),
        Rule(disk=f"{disk}.tau", paths=(f"{path}/tau",), part="tau"),
        *(rule for rules in cross for rule in rules),
    ]


def _scratch_vision() -> list[Rule]:
    disk, path, part = "scratch_vision.vision_model", "scratch_vision/vit", "scratch_vision"
    embeddings = f"{disk}.embeddings"
    return [
        Rule(disk=f"{embeddings}.class_embedding", paths=(f"{path}/class_token",), part="scratch_class"),
        Rule(disk=f"{embeddings}.register_tokens", paths=(f"{path}/registers",), part="scratch_registers"),
        Rule(disk=f"{embeddings}.patch_embedding.weight", paths=(f"{path}/patches/kernel",), layout="conv", part=part),
        Rule(disk=f"{embeddings}.patch_embedding.bias", paths=(f"{path}/patches/bias",), part="scratch_patch_bias"),
        Rule(disk=f"{embeddings}.position_embedding.weight", paths=(f"{path}/positions",), part=part),
        *norm(f"{disk}.pre_layrnorm", f"{path}/pre_norm", "scratch_pre_norm"),
        *blocks(f"{disk}.encoder.layers.{{layer}}", f"{path}/stack/blocks", part),
        *norm(f"{disk}.post_layernorm", f"{path}/final_norm", part),
        Rule(
            disk="scratch_vision.visual_projection.weight",
            paths=("scratch_vision/projection/kernel",),
            layout="transpose",
            part=part,
        ),
    ]


FAMILY = Family(
    rules=(
        *_scratch_vision(),
        *_fusion(),
        *_pooling("image_pooling.{slot}", "image_pooling/{slot}", "image_pooling"),
        *_pooling("text_pooling", "text_pooling", "text_pooling"),
        *linear("proprio_encoder.layers.{proprio_layer}", "proprio/layers/{proprio_layer}", "proprio"),
        *linear("trunk_projection", "trunk_projection", "trunk_projection"),
        *blocks("trunk.layers.{layer}", "trunk/blocks"),
        *norm("trunk_norm", "trunk_norm", "trunk_norm"),
        *linear("action_head.hidden.{head_layer}", "head/hidden/{head_layer}"),
        *linear("action_head.out", "head/out"),
    ),
)
