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
    "test_step_geometry.py", "test_transport_passes.py", "test_ots_batch.py",
]  # fmt: skip


def run(instructions: str, *words: str, **environment: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    chosen = {"GEODESIC_FAST_CPU": instructions, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run(
        quietly([sys.executable, *words]),
        env=os.environ | chosen | environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE.parent,
    )


WORDS = [
    "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "share_of_tests",
    "-m", "not gpu", "-k", "not compiled and not opcheck",
]  # fmt: skip
SHARES = {"avx2": "0/3", "baseline": "1/3"}  # the sources are the same, only their vectors are shorter


def run_share(name: str) -> subprocess.CompletedProcess:
    return run(name, *WORDS, *(str(HERE / file) for file in FILES), SHARE_OF_TESTS=SHARES[name])


IN_BACKGROUND = {name: partial(run_share, name) for name in SHARES} if engine is not None else {}


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
