"""DeepVision-VLA as our PyTorch export stores it (`targets/hf/deepvision_vla`); its released parts have own tables."""

from vla_jax.convert.families import qwenvla_oft
from vla_jax.convert.module_rules import kernel, linear, norm, table
from vla_jax.convert.rules import Family, Rule

ALIGNERS, ALIGNER = "integration/shared/aligners", "integration.aligners.{layer}"


def _alignment(name: str, part: str) -> list[Rule]:
    disk, path = f"{ALIGNER}.{name}", f"{ALIGNERS}/{name}"
    return [*linear(f"{disk}.linear", f"{path}/linear", part), *norm(f"{disk}.norm", f"{path}/norm", part)]


FAMILY = Family(
    rules=(
        *qwenvla_oft.FAMILY.rules,
        *_alignment("query", "literal"),
        *_alignment("key", "coupling"),
        *_alignment("value", "coupling"),
        *linear(f"{ALIGNER}.out", f"{ALIGNERS}/out", "literal"),
        table(f"{ALIGNER}.bias", f"{ALIGNERS}/bias", "bias"),
        kernel("integration.projection", "integration/projection", "concatenation"),
        *linear("integration.up", "integration/projector/up", "alignment"),
        *linear("integration.down", "integration/projector/down", "alignment"),
    ),
)
