"""A PyTorch user's first hour with an exported folder: loads, predicts, fine-tunes in full and with LoRA.

    python -m venv CONSUMER && CONSUMER/bin/pip install -r requirements-export.txt
    CONSUMER/bin/python benchmarks/export_consumer.py EXPORTED_FOLDER

Stands alone: it imports nothing of this project and refuses to run where JAX is installed. Prints one JSON line.
"""

import importlib.util
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers

STEPS = 20
FORBIDDEN = ("jax", "flax", "vla_jax", "data_pipelines", "tensorflow")


def main(folder: Path) -> dict[str, Any]:
    if present := [name for name in FORBIDDEN if importlib.util.find_spec(name)]:
        sys.exit(f"{present} can be imported here: run this outside the checkout, with requirements-export.txt only")
    transformers.utils.logging.disable_progress_bar()
    start = time.perf_counter()
    model = load(folder)
    seconds = time.perf_counter() - start
    observation = fixed_observation(model)
    chunk = model.predict_action(**observation)
    black = {slot: np.zeros_like(picture) for slot, picture in observation["images"].items()}
    blind = model.predict_action(**observation | {"images": black})
    other = model.predict_action(**observation | {"instruction": "open the drawer"})
    batch = fixed_batch(model, observation)
    full, lora = load(folder), peft.get_peft_model(load(folder), lora_settings())
    full.requires_grad_(True)
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "load_seconds": round(seconds, 2),
        "chunk_shape": list(chunk.shape),
        "first_action": [round(float(number), 6) for number in chunk[0]],
        "change_by_black_pictures": float(np.abs(blind - chunk).max()),
        "change_by_other_words": float(np.abs(other - chunk).max()),
        "loss_frozen_clip": fine_tune(model, batch),
        "loss_full": fine_tune(full, batch),
        "loss_lora": fine_tune(lora, batch),
        **reload_adapter(folder, lora, observation),
    }


def load(folder: Path) -> Any:
    return transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)


def lora_settings() -> peft.LoraConfig:
    return peft.LoraConfig(r=8, target_modules="all-linear", modules_to_save=["action_head"])


def fixed_observation(model: Any) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    key = sorted(model.processor.statistics)[0]
    return {
        "images": {slot: generator.integers(0, 256, (120, 160, 3), np.uint8) for slot in model.config.cameras},
        "proprio": np.asarray(model.processor.statistics[key]["proprio"]["mean"], np.float32),
        "instruction": "put the spoon in the pot",
        "unnorm_key": key,
    }


def fixed_batch(model: Any, observation: dict[str, Any]) -> dict[str, Any]:
    """One window with random targets, in normalised units."""
    generator = torch.Generator().manual_seed(0)
    batch = model.processor(**observation)
    return batch | {"action": torch.randn(1, 1, *model.config.chunk_shape, generator=generator)}


def fine_tune(model: Any, batch: dict[str, Any]) -> list[float]:
    """First and last of STEPS losses on one batch."""
    torch.manual_seed(0)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(STEPS):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    assert losses[-1] < losses[0], losses
    return [round(losses[0], 4), round(losses[-1], 4)]


def reload_adapter(folder: Path, model: Any, observation: dict[str, Any]) -> dict[str, float]:
    """What saving, loading and merging an adapter changes in the actions."""
    tuned = model.predict_action(**observation)
    with tempfile.TemporaryDirectory() as adapter:
        model.save_pretrained(adapter)
        again = peft.PeftModel.from_pretrained(load(folder), adapter)
    reloaded = again.predict_action(**observation)
    merged = again.merge_and_unload().predict_action(**observation)
    return {
        "lora_reload_difference": float(np.abs(reloaded - tuned).max()),
        "lora_merge_difference": float(np.abs(merged - tuned).max()),
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(json.dumps(main(Path(sys.argv[1])), indent=1))
