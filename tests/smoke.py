# SPDX-License-Identifier: MIT
"""Smoke test of an installed wheel: `python smoke.py [wheel]`. Imports, computes, is small."""

import math
import sys
import zipfile
from pathlib import Path

import torch

import geodesic_fast
from geodesic_fast.engine.load import engine, engine_error, is_loaded

assert is_loaded, engine_error
corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]], requires_grad=True)
score = geodesic_fast.lss(corner)
score.backward()
assert math.isclose(score.item(), math.sqrt(2), rel_tol=1e-6), score
assert corner.grad is not None
assert bool(corner.grad.isfinite().all())
points = torch.randn(40, 3, dtype=torch.float64)
assert geodesic_fast.ots(points, 2 * points).score == 1.0
maps = Path("/proc/self/maps")
if maps.exists():  # one OpenMP runtime, torch's
    lines = maps.read_text().splitlines()
    runtimes = {line.split()[-1] for line in lines if "libgomp" in line}
    assert {Path(path).parent for path in runtimes} == {Path(torch.__file__).parent / "lib"}, runtimes
    assert len(runtimes) == 1, runtimes
for wheel in sys.argv[1:]:
    bundled = [name for name in zipfile.ZipFile(wheel).namelist() if ".libs/" in name]
    assert not bundled, bundled
    size = Path(wheel).stat().st_size / 1e6
    assert size < 10, f"{wheel} has {size:.1f} MB"
    print(f"{Path(wheel).name}: {size:.2f} MB, {engine.instruction_set}, CUDA: {engine.cuda_archs or 'no'}")
