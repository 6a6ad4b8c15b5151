# SPDX-License-Identifier: MIT
"""A user's file passes `mypy --strict`, and a wrong one does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RIGHT = """
import torch
import geodesic_fast
from geodesic_fast import TrackAccumulator, geodesic_gap, lss, ots, step_geometry, track_geometry, watch
from geodesic_fast.plot import plot_tracks

states = torch.randn(5, 10, 4)
score: torch.Tensor = lss(states)
found: geodesic_fast.OTSResult = ots(states[0], states[-1])
number: float = found.score
many: geodesic_fast.OTSBatchResult = ots(states, states, batch_dims=1)
scores: torch.Tensor = many.score
geometry: geodesic_fast.TrackGeometry = track_geometry(list(states))
gap: torch.Tensor = geodesic_gap(states).gap
steps: geodesic_fast.StepGeometry = step_geometry(states)
model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
with watch(model) as w:
    model(states[0])
mean: float = float(w.geometry.lss.mean())
accumulator = TrackAccumulator()
accumulator.push(states[0])
version: str = geodesic_fast.__version__
axes = plot_tracks(states)
"""
WRONG = {
    "lss(states, dims=0)": "call-arg",
    "text: str = ots(states).score": "assignment",
    "ots(states, method=1)": "call-overload",
    "track_geometry(states).straight": "attr-defined",
}


def test_strict_mypy_on_a_users_file(tmp_path):
    pytest.importorskip("mypy", reason="needs the package mypy")
    lines = RIGHT.strip().splitlines()
    (tmp_path / "user.py").write_text("\n".join([*lines, *WRONG]) + "\n")
    options = ["--strict", "--follow-imports=silent", "--no-error-summary", "--hide-error-context"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--cache-dir", str(tmp_path / "cache"), "user.py"],
        cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    said = [(int(line.split(":")[1]), line.rsplit("[", 1)[-1].rstrip("]")) for line in errors]
    expected = [(len(lines) + 1 + at, kind) for at, kind in enumerate(WRONG.values())]
    assert said == expected, done.stdout
