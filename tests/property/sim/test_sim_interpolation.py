"""Step times between measured placements are those of the published simulator's interpolation, to the last bit."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import LinearNDInterpolator

from slurmsia.sim.profiles import TypeProfile

POINTS = np.array(
    [
        [nodes, gpus, local, 0.1 + 0.003 * local + 0.01 * nodes * math.log2(gpus + 1), 0.01 * nodes]
        for nodes in (1, 2, 4)
        for gpus in (1, 2, 4, 8, 16)
        for local in (16, 64, 200)
        if gpus >= nodes
    ]
)
PROFILE = TypeProfile("small", "t4", {}, POINTS, np.zeros((0, 5)), 16, 200, 1.0)
REFERENCE = LinearNDInterpolator(POINTS[:, :3], POINTS[:, 3:])


@given(st.integers(1, 6), st.integers(1, 20), st.integers(8, 240))
def test_between_measured_points_it_is_scipys_linear_interpolation(nodes: int, gpus: int, local: int) -> None:
    expected = REFERENCE(nodes, gpus, local)
    assert np.array_equal(np.ravel(expected), PROFILE._between(nodes, gpus, local), equal_nan=True)
