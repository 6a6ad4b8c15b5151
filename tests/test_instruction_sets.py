# SPDX-License-Identifier: MIT
"""The kernels for lesser processors, on this one."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from geodesic_fast._extension import engine

HERE = Path(__file__).parent
FILES = [
    "test_lss.py", "test_lss_gradients.py", "test_track_geometry.py", "test_track_accumulator.py",
    "test_line_deviation.py", "test_line_deviation_gradients.py", "test_chord_deviation.py",
    "test_track_distance.py", "test_track_distance_gradients.py", "test_nearest_track.py",
    "test_step_geometry.py", "test_transport_passes.py",
]  # fmt: skip


def run(instructions: str, *words: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"GEODESIC_FAST_CPU": instructions, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE.parent,
    )


@pytest.fixture(scope="module")
def runs():
    """Run the tests of the kernels on both sets at the same time, each in one thread."""
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m"]
    words += ["not gpu", "-k", "not compiled and not opcheck", *(str(HERE / name) for name in FILES)]
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(run, name, *words) for name in ("avx2", "baseline")}


@pytest.mark.skipif(engine is None, reason="the engine is not built")
@pytest.mark.parametrize("instructions", ["avx2", "baseline"])
def test_the_kernels_of_lesser_processors(instructions, runs):
    asked = "from geodesic_fast._extension import engine; print(engine.instruction_set)"
    assert run(instructions, "-c", asked).stdout.strip() in (instructions, "baseline")
    done = runs[instructions].result()
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_an_unknown_name_is_refused():
    done = run("sse9", "-c", "import geodesic_fast")
    assert "GEODESIC_FAST_CPU must be 'avx512', 'avx2' or 'baseline', got 'sse9'" in done.stderr
