# SPDX-License-Identifier: MIT
"""The kernels for lesser processors, on this one."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from in_background import quietly

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
        quietly([sys.executable, *words]),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE.parent,
    )


WORDS = [
    "-m",
    "pytest",
    "-q",
    "-p",
    "no:cacheprovider",
    "-m",
    "not gpu",
    "-k",
    "not compiled and not opcheck",
]
SETS = ["avx2", "baseline"] if engine is not None else []
IN_BACKGROUND = {name: partial(run, name, *WORDS, *(str(HERE / file) for file in FILES)) for name in SETS}


@pytest.mark.skipif(engine is None, reason="the engine is not built")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("instructions", ["avx2", "baseline"])
def test_the_kernels_of_lesser_processors(instructions, background):
    asked = "from geodesic_fast._extension import engine; print(engine.instruction_set)"
    assert run(instructions, "-c", asked).stdout.strip() in (instructions, "baseline")
    done = background[instructions].result()
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_an_unknown_name_is_refused():
    done = run("sse9", "-c", "import geodesic_fast")
    assert "GEODESIC_FAST_CPU must be 'avx512', 'avx2' or 'baseline', got 'sse9'" in done.stderr
