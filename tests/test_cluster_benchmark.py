# SPDX-License-Identifier: MIT
"""What `make bench-cluster` runs, on a small problem."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine
ROOT = Path(__file__).parents[1]


def commands(target):
    """Return the words of each command of a target of the Makefile, with this interpreter."""
    found = subprocess.run(
        ["make", "--dry-run", "--always-make", f"PYTHON={sys.executable}", target],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.replace("\\\n", " ")  # fmt: skip
    return [shlex.split(line) for line in found.splitlines()]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is missing")
def test_make_bench_cluster_checks_measures_and_writes(tmp_path):
    [words] = [words for words in commands("bench-cluster") if words[1:3] == ["-m", "torch.distributed.run"]]
    small = f"--points 1600 --features 16 --rounds 1 --threads 1 --out {shlex.quote(str(tmp_path))}"
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    ended = subprocess.run(
        [sys.executable, *words[1:], *shlex.split(small)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads((tmp_path / "scaling.json").read_text(encoding="utf-8"))
    assert (tmp_path / "scaling.png").read_bytes()[1:4] == b"PNG"
    assert len(found["machines"]) == 2
    strong, weak = found["strong"], found["weak"]
    assert [row["processes"] for row in strong] == [row["processes"] for row in weak] == [1, 2]
    assert strong[0]["score"] == strong[1]["score"]
    assert [row["m"] for row in strong] == [1600, 1600]
    assert weak[0]["m"] < weak[1]["m"] == 1600  # pairs of each process are as many
    assert all(row["seconds"] > 0 and row["peak_bytes"] > 0 for row in strong + weak)
    assert found["training"]["step"] > 0
    assert "training step: watched / plain = " in ended.stdout
