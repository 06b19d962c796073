"""EF-VLA as the published PyTorch code names it (Max-Fu/otter, `OTTER.state_dict()`); its CLIP as OpenAI's `clip` does.

What that code keeps beside its parameters (position codes) is no part of the table; cameras stand here by slot, there
by number (`targets/otter.py`).
"""

from vla_jax.convert.module_rules import linear, norm, table
from vla_jax.convert.rules import Family, Rule

QUERY_KEY_VALUE = ("query", "key", "value")


def _biases(disk: str, path: str, part: str) -> Rule:
    return Rule(disk=disk, paths=tuple(f"{path}/{name}/bias" for name in QUERY_KEY_VALUE), part=part)


def _clip_blocks(disk: str, path: str) -> list[Rule]:
    kernels = tuple(f"{path}/attention/{name}/kernel" for name in QUERY_KEY_VALUE)
    return [
        Rule(disk=f"{disk}.attn.in_proj_weight", paths=kernels, layout="transpose"),
        _biases(f"{disk}.attn.in_proj_bias", f"{path}/attention", ""),
        *linear(f"{disk}.attn.out_proj", f"{path}/attention/out"),
        *norm(f"{disk}.ln_1", f"{path}/attention_norm"),
        *norm(f"{disk}.ln_2", f"{path}/mlp_norm"),
        *linear(f"{disk}.mlp.c_fc", f"{path}/mlp/up"),
        *linear(f"{disk}.mlp.c_proj", f"{path}/mlp/down"),
    ]


def _clip() -> list[Rule]:
    text, vision = "clip_model", "clip_model.visual"
    return [
        table(f"{text}.token_embedding.weight", "clip/text/tokens"),
        table(f"{text}.positional_embedding", "clip/text/positions"),
        *_clip_blocks(f"{text}.transformer.resblocks.{{layer}}", "clip/text/stack/blocks"),
        *norm(f"{text}.ln_final", "clip/text/final_norm"),
        table(f"{text}.text_projection", "clip/text_projection/kernel"),
        table(f"{text}.logit_scale", "clip/logit_scale"),
        table(f"{vision}.class_embedding", "clip/vision/class_token"),
        table(f"{vision}.positional_embedding", "clip/vision/positions"),
        Rule(disk=f"{vision}.conv1.weight", paths=("clip/vision/patches/kernel",), layout="conv"),
        *norm(f"{vision}.ln_pre", "clip/vision/pre_norm"),
        *_clip_blocks(f"{vision}.transformer.resblocks.{{layer}}", "clip/vision/stack/blocks"),
        *norm(f"{vision}.ln_post", "clip/vision/final_norm"),
        table(f"{vision}.proj", "clip/vision_projection/kernel"),
    ]


def _pooling(disk: str, path: str) -> list[Rule]:
    block, ours = f"{disk}.blocks.{{layer}}", f"{path}/stack/blocks"
    return [
        table(f"{disk}.query", f"{path}/queries", unit_axes=1),
        *(
            Rule(
                disk=f"{block}.attention.{short}_proj_weight",
                paths=(f"{ours}/attention/{name}/kernel",),
                layout="transpose",
            )
            for short, name in zip("qkv", QUERY_KEY_VALUE, strict=True)
        ),
        _biases(f"{block}.attention.in_proj_bias", f"{ours}/attention", ""),
        *linear(f"{block}.attention.out_proj", f"{ours}/attention/out"),
        *norm(f"{block}.q_layer_norm", f"{ours}/attention_norm"),
        *norm(f"{block}.layer_norm", f"{ours}/mlp_norm"),
        *linear(f"{block}.mlp.fc1", f"{ours}/mlp/up"),
        *linear(f"{block}.mlp.fc2", f"{ours}/mlp/down"),
        *norm(f"{disk}.layer_norm", f"{path}/final_norm"),
    ]


def _trunk() -> list[Rule]:
    block, ours = "policy.layers.{layer}", "trunk/blocks"
    projections = (*QUERY_KEY_VALUE, "out")
    return [
        *(rule for name in projections for rule in linear(f"{block}.attention.{name}", f"{ours}/attention/{name}")),
        *norm(f"{block}.layernorm1", f"{ours}/attention_norm"),
        *norm(f"{block}.layernorm2", f"{ours}/mlp_norm"),
        *linear(f"{block}.intermediate", f"{ours}/mlp/up"),
        *linear(f"{block}.output", f"{ours}/mlp/down"),
    ]


FAMILY = Family(
    rules=(
        *_clip(),
        table("visual_extraction.{slot}.temperature", "fusion/{slot}/tau"),
        *_pooling("vision_poolings.{slot}", "image_pooling/{slot}"),
        *_pooling("text_pooling", "text_pooling"),
        *(rule for i in range(3) for rule in linear(f"proprio_encoder.mlp.{2 * i}", f"proprio/layers/{i}")),
        *linear("input_projection", "trunk_projection"),
        *_trunk(),
        *linear("action_head.mlp.0", "head/hidden/0"),
        *linear("action_head.mlp.2", "head/out"),
    )
)
