# SPDX-License-Identifier: MIT
"""The kernels for lesser processors, on this one, and the functions without any kernel."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from in_background import quietly

from geodesic_fast.engine.load import is_loaded

HERE = Path(__file__).parent
FILES = [
    "test_lss.py", "test_lss_gradients.py", "test_track_geometry.py", "test_track_accumulator.py",
    "test_line_deviation.py", "test_line_deviation_gradients.py", "test_chord_deviation.py",
    "test_track_distance.py", "test_track_distance_gradients.py", "test_nearest_track.py",
    "test_step_geometry.py", "test_transport_passes.py", "test_ots_batch.py",
]  # fmt: skip


WITHOUT_ENGINE = [
    *FILES, "test_action.py", "test_geodesic_bound.py", "test_geodesic_gap.py", "test_lss_shuffled.py",
    "test_displacement_interpolation.py", "test_step_profile.py", "test_range_and_rounding.py",
    "test_lss_wrong_calls.py", "test_ots_wrong_calls.py", "test_results.py", "test_watch.py",
    "test_record.py", "test_record_layers.py", "test_record_passes.py", "test_record_states.py",
    "test_watch_masks.py", "test_track_accumulator_devices.py", "test_hidden_states.py",
    "test_hugging_face.py", "test_diffusion_models.py", "test_metric_classes.py",
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


def run_without_engine() -> subprocess.CompletedProcess:
    words = [*WORDS, "-p", "without_engine", *(str(HERE / file) for file in WITHOUT_ENGINE)]
    return run("", *words, SHARE_OF_TESTS="0/6")


IN_BACKGROUND = {name: partial(run_share, name) for name in SHARES} if is_loaded else {}
IN_BACKGROUND |= {"without engine": run_without_engine}


@pytest.mark.engine
@pytest.mark.timeout(900)
@pytest.mark.parametrize("instructions", ["avx2", "baseline"])
def test_the_kernels_of_lesser_processors(instructions, background):
    asked = "from geodesic_fast.engine.load import engine; print(engine.instruction_set)"
    assert run(instructions, "-c", asked).stdout.strip() in (instructions, "baseline")
    done = background[instructions].result()
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


@pytest.mark.timeout(900)
def test_the_functions_without_an_engine(background):
    """Every sixth test; all of them with `PYTHONPATH=tests python -m pytest -p without_engine FILES`."""
    done = background["without engine"].result()
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_an_unknown_name_is_refused():
    done = run("sse9", "-c", "import geodesic_fast")
    assert "GEODESIC_FAST_CPU must be 'avx512', 'avx2' or 'baseline', got 'sse9'" in done.stderr
