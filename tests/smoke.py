# SPDX-License-Identifier: MIT
"""Smoke test of an installed wheel: `python smoke.py [wheel]`. Imports, computes, is small."""

import math
import sys
from pathlib import Path

import torch

import geodesic_fast
from geodesic_fast._extension import engine, engine_error

assert engine is not None, engine_error
corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]], requires_grad=True)
score = geodesic_fast.lss(corner)
score.backward()
assert math.isclose(score.item(), math.sqrt(2), rel_tol=1e-6), score
assert corner.grad is not None
assert bool(corner.grad.isfinite().all())
points = torch.randn(40, 3, dtype=torch.float64)
assert geodesic_fast.ots(points, 2 * points).score == 1.0
for wheel in sys.argv[1:]:
    size = Path(wheel).stat().st_size / 1e6
    assert size < 10, f"{wheel} has {size:.1f} MB"
    print(f"{Path(wheel).name}: {size:.2f} MB, {engine.instruction_set}, CUDA: {engine.cuda_archs or 'no'}")
