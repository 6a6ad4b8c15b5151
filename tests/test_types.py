# SPDX-License-Identifier: MIT
"""A user's file passes `mypy --strict`, and a wrong one does not."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from in_background import quietly

import geodesic_fast

ROOT = Path(__file__).parent.parent
# Every public function, of tensors and of arrays: what goes in says what comes out.
RIGHT = """
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import geodesic_fast as gf
from geodesic_fast.plot import plot_geometry, plot_line_deviation, plot_ots_curve, plot_steps, plot_tracks

Array = npt.NDArray[Any]
states = torch.randn(5, 10, 4)
arrays: npt.NDArray[np.float32] = states.numpy()
labels: npt.NDArray[np.int64] = np.arange(10)
numbers: list[torch.Tensor] = [
    gf.action(states, times=[0.0, 1.0, 2.0, 3.0, 4.0]), gf.chord_deviation(states), gf.lss(list(states)),
    gf.line_deviation(states, reduction="none"), gf.lss_shuffled(states, shuffles=2, seed=1),
    gf.geodesic_bound(states), gf.track_distance(states), gf.track_distance(states, arrays),
    gf.track_distance(arrays, other=states), gf.lss(tracks=states, dim=0, zero_step="keep"),
    gf.displacement_interpolation(states[0], states[-1], np.linspace(0, 1, 3)),
    gf.track_geometry(states).step_cv, gf.step_geometry(states).length, gf.geodesic_gap(states).gap,
    gf.geodesic_gap(states, target=arrays[0]).rectified_straightness, gf.ots_curve(states[0], states[1]).mean,
    gf.nearest_track(states, labels=labels).distance, gf.wasserstein_curve(iter(states)).ratio,
    gf.neural_collapse(states, labels=labels).variability,
    gf.ots(states).permutation, gf.soft_ots(states[0], states[-1], blur=1.0).potentials[0],
]
values: list[Array] = [
    gf.action(arrays, times=np.arange(5.0)), gf.chord_deviation(arrays), gf.lss(list(arrays)),
    gf.line_deviation(arrays, reduction="none"), gf.lss_shuffled(arrays, shuffles=2, seed=1),
    gf.geodesic_bound(arrays), gf.track_distance(arrays), gf.track_distance(arrays, arrays),
    gf.lss(tracks=arrays, dim=0, zero_step="keep"),
    gf.displacement_interpolation(arrays[0], arrays[-1], np.linspace(0, 1, 3)),
    gf.track_geometry(arrays).step_cv, gf.step_geometry(arrays).length, gf.geodesic_gap(arrays).gap,
    gf.geodesic_gap(arrays, target=arrays[0]).rectified_straightness, gf.ots_curve(arrays[0], arrays[1]).mean,
    gf.nearest_track(arrays, labels=torch.arange(10)).distance, gf.wasserstein_curve(iter(arrays)).ratio,
    gf.neural_collapse(arrays, labels=labels).nearest_mean_error,
    gf.ots(arrays).permutation, gf.soft_ots(arrays[0], arrays[-1], blur=1.0).potentials[0],
]
found: gf.OTSResult = gf.ots(states[0], states[-1])
score: float = found.score
many: gf.OTSBatchResult = gf.ots(states, states, batch_dims=1)
numbers += [many.score, many.permutation, gf.reference.ots(states, states, batch_dims=1).score]
values += [gf.ots(arrays, arrays, batch_dims=1).score]
of_arrays: gf.OTSResult[Array] = gf.ots(arrays[0], arrays[-1], potentials=gf.ots(arrays).potentials)
geometry: gf.TrackGeometry = gf.track_geometry(list(states))  # whose items torch leaves untyped
geometry = gf.track_geometry([states[0], arrays[1]])
share: float = gf.geodesic_bound_summary(states).share_kept + gf.geodesic_bound_summary(arrays).share_kept
profile: gf.StepProfile = gf.step_geometry(arrays).profile()
references: list[torch.Tensor] = [
    gf.reference.action(states), gf.reference.chord_deviation(states), gf.reference.geodesic_bound(states),
    gf.reference.displacement_interpolation(states[0], states[1], 0.5), gf.reference.line_deviation(states),
    gf.reference.lss(states), gf.reference.lss_shuffled(states), gf.reference.nearest_track(states).distance,
    gf.reference.neural_collapse(states, labels=torch.arange(10)).variability,
    gf.reference.geodesic_gap(states).gap, gf.reference.ots_curve(states[0], states[1]).mean,
    gf.reference.step_geometry(states).length, gf.reference.track_distance(states),
    gf.reference.track_geometry(states).lss, gf.reference.wasserstein_curve(states).ratio,
    gf.reference.ots(states).permutation,
]
share += gf.reference.geodesic_bound_summary(states).share_kept
share += gf.reference.soft_ots(states[0], states[-1], blur=1.0)

model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
with gf.watch(model, profile=True, curve=True, ends=True) as w:
    model(states[0])
watched: gf.TrackGeometry = w.geometry
steps: gf.StepProfile = w.profile
curve: gf.WassersteinCurve = w.curve
first: torch.Tensor = w.ends[0]
with gf.record(model, layers="*") as recording:
    model(states[0])
tracks: list[torch.Tensor] = recording.tracks
accumulator = gf.TrackAccumulator(profile=True)
accumulator.push(states[0])
accumulated: gf.TrackGeometry = accumulator.geometry
version: str = gf.__version__
axes = plot_tracks(states)
plot_geometry([watched], ax=axes)
plot_line_deviation(gf.line_deviation(states))
plot_ots_curve(gf.ots_curve(states[0], states[1]))
plot_steps(steps)
"""
LINES = RIGHT.strip().splitlines()
WRONG = {
    "gf.lss(states, dims=0)": "call-overload",
    "text: str = gf.ots(states).score": "assignment",
    "gf.ots(states, method=1)": "call-overload",
    "gf.track_geometry(states).straight": "attr-defined",
    "tensor: torch.Tensor = gf.lss(arrays)": "assignment",
    "array: Array = gf.track_geometry(states).lss": "assignment",
    "w.geometry.straight": "attr-defined",
    "w.profile.straight": "attr-defined",
}


def test_the_users_file_calls_every_public_function():
    functions = {
        name for name in geodesic_fast.__all__ if name.islower() and name not in ("plot", "reference")
    }
    functions |= {f"reference.{name}" for name in geodesic_fast.reference.__all__}
    assert [name for name in sorted(functions) if f"gf.{name}(" not in RIGHT] == []


def _checked():
    if importlib.util.find_spec("mypy") is None:
        return None
    options = ["--strict", "--follow-imports=silent", "--no-error-summary", "--hide-error-context"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "user.py").write_text("\n".join([*LINES, *WRONG]) + "\n")
        return subprocess.run(
            quietly([sys.executable, "-m", "mypy", *options, "--cache-dir", "cache", "user.py"]),
            cwd=folder, env={**os.environ, "MYPYPATH": str(ROOT)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip


IN_BACKGROUND = {"mypy": _checked}


@pytest.mark.timeout(900)
def test_strict_mypy_on_a_users_file(background):
    done = background["mypy"].result()
    if done is None:
        pytest.skip("needs the package mypy")
    assert done.stderr == ""
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    said = [(int(line.split(":")[1]), line.rsplit("[", 1)[-1].rstrip("]")) for line in errors]
    expected = [(len(LINES) + 1 + at, kind) for at, kind in enumerate(WRONG.values())]
    assert list(dict.fromkeys(said)) == expected, done.stdout
