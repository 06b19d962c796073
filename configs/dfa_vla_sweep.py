"""The sensitivity grid of DFA-VLA's Table 2: one variant a row, each one key away from the paper's best.

Command   for VARIANT in $(python configs/dfa_vla_sweep.py); do
              python train.py --config configs/dfa_vla_sweep.py:$VARIANT --data.root LIBERO --data.cache CACHE \
                  --tokenizer.path LLAMA_FOLDER --init-from RUN --run-dir sweep/$VARIANT
          done
          RUN: pretrained by configs/dfa_vla_oxe.py. The paper's rows are on LIBERO-Spatial.
Variants  lambda1_0_1, lambda1_0_5, ... gate_learned, as CELLS names them; tiny_... are CPU twins of them on
          bridge_dataset. The rows that say 0.5, 224, 5 and learned are one and the same configuration.
Chips     Each is one fine-tune with LoRA: see configs/dfa_vla_oxe.py.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from configs import dfa_vla_oxe
from vla_jax.config import RunConfig
from vla_jax.fusion.dfaf import GateConfig

CELLS: dict[str, dict[str, Any]] = {
    **{f"lambda1_{value}".replace(".", "_"): {"align_weight": value} for value in (0.1, 0.5, 1.0, 2.0)},
    **{f"lambda2_{value}".replace(".", "_"): {"mask_weight": value} for value in (0.1, 0.5, 1.0)},
    **{f"resolution_{value}": {"resolution": value} for value in (128, 224, 512)},
    **{f"top_{value}": {"num_selected": value} for value in (2, 5, 10)},
    "gate_0": {"gate": GateConfig(kind="constant", value=0.0)},
    "gate_1": {"gate": GateConfig(kind="constant", value=1.0)},
    "gate_learned": {"gate": GateConfig()},
}
"""Name -> what is changed, of the policy or of its DFAF."""


def get_config() -> RunConfig:
    return dfa_vla_oxe.finetune_lora()


def tiny() -> RunConfig:
    return dfa_vla_oxe.tiny()


def _changed(config: RunConfig, name: str, change: dict[str, Any]) -> RunConfig:
    policy: Any = config.policy
    of_dfaf = {key: value for key, value in change.items() if not hasattr(policy, key)}
    dfaf = dataclasses.replace(policy.dfaf, **of_dfaf)
    own = {key: value for key, value in change.items() if key not in of_dfaf}
    return dataclasses.replace(config, name=name, policy=dataclasses.replace(policy, dfaf=dfaf, **own))


def _variant(base: Callable[[], RunConfig], prefix: str, cell: str) -> Callable[[], RunConfig]:
    def variant() -> RunConfig:
        return _changed(base(), f"dfa_vla_{prefix}{cell}", CELLS[cell])

    variant.__name__ = f"{prefix}{cell}"
    return variant


globals().update({cell: _variant(get_config, "", cell) for cell in CELLS})
globals().update({f"tiny_{cell}": _variant(tiny, "tiny_", cell) for cell in CELLS})

if __name__ == "__main__":
    print(*CELLS)
