# SPDX-License-Identifier: MIT
"""Some cases of the fuzzer, always the same, on every instruction set and with no engine; see `make fuzz`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from geodesic_fast._extension import engine

FUZZER = Path(__file__).with_name("fuzz_metrics.py")


@pytest.mark.parametrize("instructions", ["avx512", "avx2", "baseline", "none"])
def test_random_tracks_agree_with_extended_precision(instructions):
    if instructions != "none" and engine is None:
        pytest.skip("the compiled engine is not built")
    words = ["--cases", "50", "--seed", "7000"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if instructions == "none":
        words.append("--no-engine")
    else:
        environment["GEODESIC_FAST_CPU"] = instructions
    done = subprocess.run(
        [sys.executable, str(FUZZER), *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " 0 failures" in done.stdout
