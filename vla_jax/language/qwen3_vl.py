"""Qwen3-VL's text model: Qwen3 whose positions are in time, height and width (interleaved M-RoPE).

Source: Qwen3-VL technical report (arXiv 2511.21631); sizes and constants are those of the releases' config.json.
DeepStack is `additions` of `Decoder.hidden`; `vlms/qwen3_vl.py` joins it with the vision tower.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import nnx
from jaxtyping import Array, Real

from vla_jax.language.decoder import Decoder, DecoderConfig
from vla_jax.language.release_settings import decoder_fields, release_settings
from vla_jax.nn.norms import RmsNormConfig
from vla_jax.nn.rotary import Rotation, multimodal_rotation
from vla_jax.types import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen3VlTextConfig:
    decoder: DecoderConfig
    sections: tuple[int, int, int] = (24, 20, 20)
    """How many of a head's frequencies turn by time, height and width."""

    def __post_init__(self):
        if len(self.sections) != 3 or sum(self.sections) * 2 != self.decoder.head_width:
            raise InputError(f"mrope_section={self.sections}: 3 of half of head_dim={self.decoder.head_width} expected")

    def build(self, rngs: nnx.Rngs) -> "Qwen3VlText":
        return Qwen3VlText(self, rngs=rngs)

    def settings(self) -> dict[str, Any]:
        """`text_config` of config.json."""
        positions = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": list(self.sections)}
        return release_settings(self.decoder) | {"rope_scaling": positions, "attention_bias": False}


class Qwen3VlText(Decoder):
    def __init__(self, config: Qwen3VlTextConfig, *, rngs: nnx.Rngs):
        super().__init__(config.decoder, rngs=rngs)
        self.sections = config.sections

    def rotation(self, positions: Real[Array, "*axes b n"]) -> Rotation:
        """Of positions in time, height and width, or of text, where the three are one."""
        if positions.ndim == 2:
            return super().rotation(positions)
        return multimodal_rotation(positions, self.config.head_width, self.config.theta, self.sections)


def from_settings(settings: Mapping[str, Any]) -> Qwen3VlTextConfig:
    """The model whose `settings()` these are."""
    positions = dict(settings["rope_scaling"])
    sections = positions.pop("mrope_section", None)
    if positions != {"rope_type": "default", "mrope_interleaved": True} or not sections:
        raise InputError(
            f"config.json: text_config.rope_scaling is {settings['rope_scaling']}, expected rope_type 'default', "
            "mrope_interleaved true and an mrope_section; nothing else is supported"
        )
    fields = decoder_fields({**settings, "rope_scaling": None}, attention_bias=False)
    decoder = DecoderConfig(**fields, head_norm=fields["norm"])
    return Qwen3VlTextConfig(decoder=decoder, sections=tuple(sections))


def qwen3_vl_2b() -> Qwen3VlTextConfig:
    return _release(width=2048, num_layers=28, num_heads=16, mlp_width=6144, tied_head=True)


def qwen3_vl_4b() -> Qwen3VlTextConfig:
    return _release(width=2560, num_layers=36, num_heads=32, mlp_width=9728, tied_head=True)


def qwen3_vl_8b() -> Qwen3VlTextConfig:
    return _release(width=4096, num_layers=36, num_heads=32, mlp_width=12288, tied_head=False)


PRESETS = {"qwen3_vl_2b": qwen3_vl_2b, "qwen3_vl_4b": qwen3_vl_4b, "qwen3_vl_8b": qwen3_vl_8b}


def tiny() -> Qwen3VlTextConfig:
    """The CPU twin: sizes that differ from one another."""
    decoder = _release(width=20, num_layers=5, num_heads=4, mlp_width=28, tied_head=True).decoder
    sizes: dict[str, Any] = {"num_key_value_heads": 2, "head_width": 22, "vocab_size": 99, "max_length": 64}
    return Qwen3VlTextConfig(decoder=dataclasses.replace(decoder, **sizes), sections=(5, 3, 3))


def small(*, width: int, num_layers: int, vocab_size: int) -> Qwen3VlTextConfig:
    """To be trained from nothing on a CPU. The release's theta: most of a head's channels turn slowly, and say what a
    token is rather than where.
    """
    release = _release(width=width, num_layers=num_layers, num_heads=width // 32, mlp_width=2 * width, tied_head=True)
    sizes: dict[str, Any] = {"num_key_value_heads": width // 32, "head_width": 32, "vocab_size": vocab_size}
    decoder = dataclasses.replace(release.decoder, **sizes, max_length=256, remat="none")
    return Qwen3VlTextConfig(decoder=decoder, sections=(8, 4, 4))


def _release(*, width: int, num_layers: int, num_heads: int, mlp_width: int, tied_head: bool) -> Qwen3VlTextConfig:
    norm = RmsNormConfig(epsilon=1e-6)
    decoder = DecoderConfig(
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        num_key_value_heads=8,
        head_width=128,
        mlp_width=mlp_width,
        vocab_size=151936,
        max_length=262144,
        theta=5e6,
        norm=norm,
        head_norm=norm,
        tied_head=tied_head,
    )
    return Qwen3VlTextConfig(decoder=decoder)
