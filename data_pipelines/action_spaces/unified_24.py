"""One padded vector of 24 numbers for every embodiment, with its mask: `conventions/unified_vector.py`."""

from data_pipelines.action_spaces import unified
from data_pipelines.conventions.unified_vector import OPTIONAL as OPTIONAL
from data_pipelines.conventions.unified_vector import REQUIRED as REQUIRED
from data_pipelines.conventions.unified_vector import VALID as VALID
from data_pipelines.conventions.unified_vector import UnifiedVector

_VECTOR = UnifiedVector("unified_24", 24)
action_space, available = _VECTOR.action_space, _VECTOR.available
proprio, targets = _VECTOR.proprio, _VECTOR.targets
absolute, motion_errors = unified.absolute, unified.motion_errors
