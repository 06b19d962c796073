"""Makes roi_align.npz with torchvision, which must not share an environment with this project's own torch.

python -m venv /tmp/torchvision && /tmp/torchvision/bin/pip install torch==2.14.1 torchvision==0.29.1 numpy
/tmp/torchvision/bin/python tests/fusion/golden/make_roi_align_golden.py
"""

from pathlib import Path

import numpy as np
import torch
import torchvision

# Left, upper, right, lower in shares of the picture. No sample lies within rounding of where a result jumps, a cell
# outside the grid.
BOXES = np.array(
    [
        [0.10, 0.20, 0.60, 0.90],
        [0.00, 0.00, 1.00, 1.00],
        [0.50, 0.00, 1.00, 0.30],
        [0.33, 0.41, 0.34, 0.43],  # less than a cell
        [0.70, 0.70, 0.70, 0.70],  # a point
        [-0.23, -0.13, 0.41, 0.52],  # partly outside
        [0.81, 0.74, 1.31, 1.42],
        [1.50, 0.10, 1.90, 0.60],  # outside
        [0.02, 0.60, 0.97, 0.64],  # flat
    ],
    np.float32,
)
GRIDS = ((5, 8), (14, 14))
SIZES = (1, 7)
WIDTH = 3


def main() -> None:
    random = np.random.default_rng(0)
    arrays = {"boxes": BOXES, "torchvision": np.array(torchvision.__version__.split("+")[0])}
    for rows, columns in GRIDS:
        features = random.normal(size=(rows, columns, WIDTH)).astype(np.float32)
        arrays[f"features_{rows}x{columns}"] = features
        cells = BOXES * np.array([columns, rows, columns, rows], np.float32)
        for size in SIZES:
            out = torchvision.ops.roi_align(
                torch.from_numpy(features.transpose(2, 0, 1)[None].copy()),
                [torch.from_numpy(cells)],
                output_size=size,
                spatial_scale=1.0,
                sampling_ratio=2,
                aligned=True,
            )
            arrays[f"out_{rows}x{columns}_{size}"] = out.numpy().transpose(0, 2, 3, 1)
    np.savez_compressed(Path(__file__).with_name("roi_align.npz"), **arrays)


if __name__ == "__main__":
    main()
