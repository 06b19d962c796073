"""README.md of an exported folder: what it is, what goes in and comes out, how to load and fine-tune it."""

from typing import Any

from vla_jax.convert.export import Export
from vla_jax.types import DataRequirements, Dimension

FORMS = {
    "relative_pose": (
        "Entry j of a chunk is the pose commanded at the j-th step from now, in the frame of the present gripper\n"
        "pose: translation, then the first two ROWS of the rotation matrix, then gripper openness (absolute: 1 open,\n"
        "0 closed). Proprio is the present pose in the robot's base frame, in the same layout.\n"
        "`model.processor.absolute_poses(chunk, proprio)` gives poses in the base frame."
    ),
}

TEMPLATE = """\
---
library_name: transformers
pipeline_tag: robotics
tags: [robotics, vision-language-action, {policy}]
license: other
---

# {policy}

A vision-language-action policy, pretrained in JAX with `vla_jax` and exported to PyTorch. This folder is all that is
needed: torch, transformers, {needed}tokenizers, safetensors, Pillow and numpy run it; JAX does not take part.{lacking}

{source}

## Load and predict

```python
{imports}import transformers

model = transformers.AutoModel.from_pretrained("THIS_FOLDER", trust_remote_code=True)
{adapt}chunk = model.predict_action(
    images={{{images}}},  # uint8 RGB [y, x, 3] or PIL, any size
    proprio=proprio,  # [{proprio_width}], not normalised
    instruction="put the spoon in the pot",{unnorm_key}{further}
)  # float32 [{horizon}, {action_width}], in the units below
```

`trust_remote_code=True` runs the Python files of this folder; read them first if you do not know where it comes from.
A missing camera is left out of `images`. For history give lists of up to {window} pictures, oldest first, and as many
rows of proprio. Pictures are resized by Pillow's {filter} filter with antialiasing, stretched to {size}.

## Action and proprio

{form}

| action | unit | normalised |
|---|---|---|
{action}

| proprio | unit | normalised |
|---|---|---|
{proprio}

Normalisation: {normalization}, with `dataset_statistics.json`. `unnorm_key`: {keys}.

## Fine-tune

```python
batch = model.processor(images, proprio, instruction{processor_key})
output = model(**batch, action=action, action_mask=action_mask)  # action [b, w, h, a], normalised
output.loss.backward()
```

`model.processor.normalize_action` normalises targets. Frozen in pretraining, and frozen when loaded: {frozen};
`model.requires_grad_(True)` trains them too. Every projection is a plain `nn.Linear`: LoRA by
`peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", modules_to_save=["action_head"]))`.

## Parity with JAX

{inputs} random inputs with padded windows, padded text and missing cameras, float32: largest difference
{error:.1e} of the largest value (`parity.json` has every stage and the sha256 of every tensor).
`MANIFEST.json` has the sha256 of every file.

## Licence and limits

No licence was set when this folder was written: whoever publishes it must name one that fits the training data and,
where pretrained encoders are inside, theirs. Success rates are not part of an export; actions are unfiltered network
outputs: limit them before they reach a robot.
"""

WITH_ADAPTER = {
    "needed": "peft, ",
    "imports": "import peft\n",
    "adapt": 'model = peft.PeftModel.from_pretrained(model, "THIS_FOLDER/{adapter}")  # is_trainable=True: trains on\n',
    "lacking": (
        "\n\nThe weights of this folder lack what the adapters learnt: without the adapter in `{adapter}` the "
        "policy is another one."
    ),
}
"""What the card says more of an adapter beside the weights, by place."""


def text(export: Export, parity: dict[str, Any], *, adapter: str = "") -> str:
    """Args: adapter: the folder beneath with PEFT's adapter; empty: there is none."""
    requirements, keys = export.requirements, sorted(export.statistics)
    space = requirements.action_space
    several = len(keys) > 1
    sizes = sorted({f"{camera.width} x {camera.height}" for camera in requirements.cameras})
    sources = dict.fromkeys(camera.source for camera in requirements.cameras)
    prefixes = [name for name in export.parts if any(path.startswith(f"{name}/") for path in export.frozen)]
    return TEMPLATE.format(
        policy=export.policy,
        **{place: said.format(adapter=adapter) if adapter else "" for place, said in WITH_ADAPTER.items()},
        source="\n".join(f"- {name}: {value}" for name, value in export.source.items()),
        images=", ".join(f'"{source}": {source}_picture' for source in sources),
        further=_further(requirements),
        filter=" or ".join(sorted({camera.filter for camera in requirements.cameras})),
        proprio_width=space.proprio_width,
        unnorm_key=f'\n    unnorm_key="{keys[0]}",' if several else "",
        processor_key=f', "{keys[0]}"' if several else "",
        horizon=space.horizon,
        action_width=space.action_width,
        window=requirements.window,
        size=" and ".join(sizes),
        form=FORMS.get(space.form, f"Action space `{space.form}`."),
        action=_rows(space.dimensions),
        proprio=_rows(space.proprio),
        normalization=space.normalization,
        keys=", ".join(f"`{key}`" for key in keys) + (" (required: there are several)" if several else ""),
        frozen=", ".join(f"`{prefix}`" for prefix in prefixes) or "nothing",
        inputs=parity["inputs"],
        error=parity["max_relative_error"],
    )


def _further(requirements: DataRequirements) -> str:
    """Arguments that only some policies have."""
    lines = []
    if requirements.boxes is not None:
        lines.append("boxes=boxes,  # [k, 4]: left, upper, right, lower of objects, in shares of the picture")
    if requirements.depths:
        depths = ", ".join(f'"{depth.slot}": {depth.slot}_depth' for depth in requirements.depths)
        lines.append(f"depths={{{depths}}},  # float32 [y, x] in metres, 0 where nothing was measured")
    return "".join(f"\n    {line}" for line in lines)


def _rows(dimensions: tuple[Dimension, ...]) -> str:
    return "\n".join(
        f"| {dimension.name} | {dimension.unit or '-'} | {'yes' if dimension.normalize else 'no'} |"
        for dimension in dimensions
    )
