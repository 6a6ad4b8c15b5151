# SPDX-License-Identifier: MIT
"""Ctrl-C ends long work soon, and as KeyboardInterrupt."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

# More than half a minute each on two cores.
LONG = {
    "ots": ("x, y = torch.randn(2, 30_000, 512)", "ots(x, y, method='tiles')"),
    "stored ots": ("x, y = torch.randn(2, 12_000, 8192)", "ots(x, y, method='stored')"),
    "ots of a batch": ("x, y = torch.randn(2, 20_000, 256, 2)", "ots(x, y, batch_dims=1)"),
    "nearest_track": ("x = torch.randn(33, 20_000, 512)", "nearest_track(x)"),
    "track_distance": ("x = torch.randn(129, 8_000, 512)", "track_distance(x)"),
}


@pytest.mark.engine
@pytest.mark.parametrize("name", LONG)
def test_ctrl_c(name):
    given, call = LONG[name]
    code = (
        "import torch, geodesic_fast\n"
        f"{given}\n"
        "print('started', flush=True)\n"
        f"geodesic_fast.{call}\n"
        "print('done', flush=True)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "started\n"
        time.sleep(1.0)
        assert child.poll() is None
        child.send_signal(signal.SIGINT)
        sent = time.monotonic()
        out, err = child.communicate(timeout=60)
        took = time.monotonic() - sent
    finally:
        child.kill()
        child.wait()
    assert out == ""
    assert err.rstrip().endswith("KeyboardInterrupt"), err
    assert took < 10


SENDS = """
import signal, subprocess, sys
def test_a_child_hears_ctrl_c():
    program = "import time; print('started', flush=True); time.sleep(30)"
    command, pipe = [sys.executable, "-S", "-c", program], subprocess.PIPE
    child = subprocess.Popen(command, stdout=pipe, stderr=pipe)
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in child.communicate()[1]
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's jobs in the background are of Unix")
def test_tests_run_in_the_background(tmp_path):
    """`make test &` in a script: the shell lets the job ignore SIGINT, and its children inherit that."""
    for name in ("conftest.py", "in_background.py"):
        shutil.copy(TESTS / name, tmp_path)
    (tmp_path / "test_sends.py").write_text(SENDS)
    inner = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *inner], capture_output=True, text=True, check=False
    )
    assert "1 passed" in done.stdout, done.stdout
