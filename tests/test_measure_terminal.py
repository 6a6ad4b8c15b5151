# SPDX-License-Identifier: MIT
"""`python -m geodesic_fast measure` as a user meets it: on a terminal, without a network."""

import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch

import geodesic_fast
from geodesic_fast.__main__ import main

MEASURE = [sys.executable, "-m", "geodesic_fast", "measure"]


def on_a_terminal(command: list[str]) -> tuple[int, str, str]:
    """Run a command whose stderr is a terminal of its own; return its exit code, stdout and stderr."""
    pty, termios, fcntl = (
        pytest.importorskip(name, reason="no pseudo-terminals here") for name in ("pty", "termios", "fcntl")
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # a new one has no columns
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    shown = bytearray()
    try:
        while piece := os.read(ours, 1 << 16):
            shown += piece
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(ours)
    return child.wait(), child.communicate()[0], shown.decode()


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    path = tmp_path_factory.mktemp("tracks") / "tracks.npy"
    np.save(path, np.random.default_rng(0).standard_normal((12, 700, 8)).astype(np.float32))
    return path


def test_a_terminal_shows_progress_and_a_pipe_does_not(tracks, tmp_path):
    command = [*MEASURE, str(tracks), "--json", "--output", str(tmp_path)]
    code, out, shown = on_a_terminal(command)
    assert code == 0, shown
    assert json.loads(out)["groups"][0]["tracks"] == 700
    assert "100%" in shown
    assert "700/700" in shown
    assert "potentials" in shown  # the bar of the transport score
    piped = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(piped.stdout)["groups"] == json.loads(out)["groups"]
    assert "%" not in piped.stderr
    assert piped.stderr.count("\n") == 1  # where the report is


@pytest.mark.parametrize("more", [("--text", "words.txt"), ("--images", "pictures")], ids=["text", "images"])
def test_a_hub_name_that_cannot_be_downloaded_is_a_sentence(more, tmp_path):
    for package in ("transformers", "PIL"):
        pytest.importorskip(package, reason=f"needs the package {package}")
    (tmp_path / "words.txt").write_text("some words of a text")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "none.png").write_bytes(b"no picture")
    done = subprocess.run(
        [*MEASURE, "nobody-at-all/no-such-model", more[0], str(tmp_path / more[1])],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "python -m geodesic_fast: nobody-at-all/no-such-model must be a Hugging Face model on this disk or "
        "one that can be downloaded, got "
    ), done.stderr
    assert "connect to the network once" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_pth_file(tmp_path, capsys):
    layers = list(torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(0)))
    torch.save(layers, tmp_path / "tracks.pth")
    assert main(["measure", str(tmp_path / "tracks.pth"), "--json", "--output", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)["groups"][0]["fields"]["lss"]["mean"]
    assert told == pytest.approx(geodesic_fast.reference.lss(layers).double().mean().item(), rel=1e-6)
