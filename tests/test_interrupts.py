# SPDX-License-Identifier: MIT
"""Ctrl-C ends long work soon, and as KeyboardInterrupt."""

import signal
import subprocess
import sys
import time

import pytest

from geodesic_fast._extension import engine

pytestmark = pytest.mark.skipif(engine is None, reason="the engine is not built: long work is its own")

# More than half a minute each on two cores.
LONG = {
    "ots": ("x, y = torch.randn(2, 30_000, 512)", "ots(x, y, method='tiles')"),
    "stored ots": ("x, y = torch.randn(2, 12_000, 8192)", "ots(x, y, method='stored')"),
    "nearest_track": ("x = torch.randn(33, 20_000, 512)", "nearest_track(x)"),
    "track_distance": ("x = torch.randn(129, 8_000, 512)", "track_distance(x)"),
}


@pytest.mark.parametrize("name", LONG)
def test_ctrl_c(name):
    given, call = LONG[name]
    code = (
        "import signal, torch, geodesic_fast\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell in the background ignores it
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
