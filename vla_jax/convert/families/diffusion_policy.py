"""Diffusion Policy as our PyTorch export stores it, without CLIP's text half, which has CLIP's own table.

The U-Net has the names of the published code, behind `action_head.`; the ResNets' layers almost those of torchvision.
"""

from vla_jax.convert.module_rules import conv, linear, norm
from vla_jax.convert.rules import Family, Layout, Rule

MOST = 6
"""Stages, blocks of a stage, and levels that the table knows."""


def _kernel(disk: str, path: str, part: str, layout: Layout = "conv") -> Rule:
    return Rule(disk=f"{disk}.weight", paths=(f"{path}/kernel",), layout=layout, part=part)


def _conv1d(disk: str, path: str, part: str = "", layout: Layout = "conv1d") -> list[Rule]:
    return [_kernel(disk, path, part, layout), Rule(disk=f"{disk}.bias", paths=(f"{path}/bias",), part=part)]


def _stage(stage: int, block: int) -> list[Rule]:
    disk, path = f"resnets.{{slot}}.layers.{stage}.{block}", f"resnets/{{slot}}/stages/{stage}/{block}"
    part = f"stage {stage} {block}"
    return [
        _kernel(f"{disk}.conv1", f"{path}/first", part),
        *norm(f"{disk}.bn1", f"{path}/first_norm", part),
        _kernel(f"{disk}.conv2", f"{path}/second", part),
        *norm(f"{disk}.bn2", f"{path}/second_norm", part),
        _kernel(f"{disk}.downsample.0", f"{path}/shortcut", f"{part} shortcut"),
        *norm(f"{disk}.downsample.1", f"{path}/shortcut_norm", f"{part} shortcut"),
    ]


def _film(stage: int) -> list[Rule]:
    disk, path, part = f"resnets.{{slot}}.films.{stage}", f"resnets/{{slot}}/films/{stage}", f"film {stage}"
    return [*linear(f"{disk}.scale", f"{path}/scale", part), *linear(f"{disk}.shift", f"{path}/shift", part)]


def _convolution_block(disk: str, path: str, part: str) -> list[Rule]:
    return [
        *_conv1d(f"{disk}.block.0", f"{path}/convolution", part),
        *norm(f"{disk}.block.1", f"{path}/norm", part),
    ]


def _modulated(disk: str, path: str, part: str) -> list[Rule]:
    return [
        *_convolution_block(f"{disk}.blocks.0", f"{path}/first", part),
        *_convolution_block(f"{disk}.blocks.1", f"{path}/second", part),
        *linear(f"{disk}.cond_encoder.1", f"{path}/modulation", part),
        *_conv1d(f"{disk}.residual_conv", f"{path}/shortcut", f"{part} shortcut"),
    ]


def _level(way: str, level: int, layout: Layout) -> list[Rule]:
    disk, path, part = f"action_head.{way}_modules.{level}", f"head/denoiser/{way}/{level}", f"{way} {level}"
    return [
        *_modulated(f"{disk}.0", f"{path}/first", f"{part} first"),
        *_modulated(f"{disk}.1", f"{path}/second", f"{part} second"),
        *_conv1d(f"{disk}.2.conv", f"{path}/resize", f"{part} resize", layout),
    ]


def _unet() -> list[Rule]:
    disk, path = "action_head", "head/denoiser"
    rules = [
        *linear(f"{disk}.diffusion_step_encoder.1", f"{path}/time_up"),
        *linear(f"{disk}.diffusion_step_encoder.3", f"{path}/time_down"),
        *_convolution_block(f"{disk}.final_conv.0", f"{path}/out_block", ""),
        *_conv1d(f"{disk}.final_conv.1", f"{path}/out"),
    ]
    for number in range(2):
        rules += _modulated(f"{disk}.mid_modules.{number}", f"{path}/middle/{number}", f"middle {number}")
    for level in range(MOST):
        rules += _level("down", level, "conv1d") + _level("up", level, "conv1d_transpose")
    return rules


FAMILY = Family(
    rules=(
        _kernel("resnets.{slot}.conv1", "resnets/{slot}/stem", ""),
        *norm("resnets.{slot}.bn1", "resnets/{slot}/stem_norm"),
        *(rule for stage in range(MOST) for block in range(MOST) for rule in _stage(stage, block)),
        *(rule for stage in range(MOST) for rule in _film(stage)),
        *conv("resnets.{slot}.keypoints", "resnets/{slot}/keypoints"),
        *linear("resnets.{slot}.out", "resnets/{slot}/out"),
        *_unet(),
    ),
)
