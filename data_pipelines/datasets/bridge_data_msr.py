"""Microsoft Research's WidowX 250 episodes (`bridge_data_msr/0.0.1`), collected in BridgeData V2's set-up and format.

Numbers as in `bridge_dataset`, whose conventions the publishers name; three cameras, one with depth.
"""

from data_pipelines.datasets import bridge_dataset
from data_pipelines.spec import DatasetSpec, Depth

SPEC = DatasetSpec(
    name="bridge_data_msr",
    version="0.0.1",
    robot="WidowX 250",
    cameras={slot: f"observation/image_{k}" for k, slot in enumerate(("primary", "secondary", "tertiary"))},
    depths={"primary": Depth(key="observation/depth_0", metres=None)},
    languages=("language_instruction",),
    numbers=("action", "observation/state"),
    rate_hertz=5.0,
    action="gripper_delta",
    proprio="pose_euler",
    gripper="state and action: 1 open, 0 closed, continuous; commands binarised at 0.05 and 0.95",
    episodes={"train": 822},
    unknown=("The unit of the depth pictures.",),
    source="the TFDS catalog's feature tree and its description: 'compatible with BridgeData V2'",
)

standardize = bridge_dataset.standardize
