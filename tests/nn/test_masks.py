"""Masks of attention, compared with what figures show."""

import jax.numpy as jnp
import numpy as np

from vla_jax.nn import masks

# Octo, figure 2: rows attend to columns. T the task, O observations and R the read-out of each of two steps.
OCTO = """
    T T O O R O O R
T   x x . . . . . .
T   x x . . . . . .
O   x x x x . . . .
O   x x x x . . . .
R   x x x x x . . .
O   x x x x . x x .
O   x x x x . x x .
R   x x x x x x x x
"""


def test_step_blocks_are_octo_s():
    rows = [line.split()[1:] for line in OCTO.strip().splitlines()[1:]]
    expected = np.array(rows) == "x"
    np.testing.assert_array_equal(masks.step_blocks(2, 2, 1, 2), expected)


def test_all_over_valid_hides_padding_from_all_but_itself():
    found = masks.all_over_valid(jnp.array([[True, False, True]]))
    np.testing.assert_array_equal(found.dense()[0], [[1, 0, 1], [1, 1, 1], [1, 0, 1]])
