# SPDX-License-Identifier: MIT
"""Arrays of other packages: NumPy in gives NumPy out; JAX and CuPy come in through DLPack, without a copy."""

import numpy as np

from geodesic_fast import lss, ots, track_geometry

tracks = np.random.default_rng(0).normal(size=(13, 100, 32)).cumsum(0)  # (n+1, *batch, d)
scores = lss(tracks)  # (*batch), a NumPy array
print(scores.mean(), track_geometry(list(tracks)).chord.mean(), ots(tracks[0], tracks[-1]).score)

try:
    import jax.numpy as jnp
except ImportError:
    print("JAX is not installed")
else:
    back = jnp.from_dlpack(lss(jnp.asarray(tracks)))  # a tensor, which every other package takes over
    print(back.mean())
