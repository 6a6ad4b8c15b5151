# SPDX-License-Identifier: MIT
"""`measure --blur`: the soft transport score, of either backend, from the command line."""

import json

import pytest
import torch

from geodesic_fast import soft_ots
from geodesic_fast.__main__ import main


@pytest.fixture
def saved(tmp_path):
    tracks = torch.randn(5, 40, 7, generator=torch.Generator().manual_seed(0)).cumsum(0)
    torch.save(tracks, tmp_path / "tracks.pt")
    return tmp_path / "tracks.pt", tracks


def measured(path, capsys, *arguments):
    assert main(["measure", str(path), "--output", str(path.parent / "out"), *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("backend", ["tiles", "geomloss"])
def test_the_soft_score_is_that_of_the_function(saved, capsys, backend):
    if backend == "geomloss":
        for package in ("geomloss", "pykeops"):
            pytest.importorskip(package, reason=f"{package} is not installed")
        capsys.readouterr()  # what the imports of this test say
    path, tracks = saved
    found = json.loads(measured(path, capsys, "--json", "--blur", "1.5", "--backend", backend))
    (group,) = found["groups"]
    # Both are sums in float32, in an order that threads and addresses decide.
    expected = soft_ots(tracks[0], tracks[-1], blur=1.5, backend=backend)
    assert group["ots"]["soft"] == {
        "blur": 1.5, "backend": expected.backend, "score": pytest.approx(expected.soft_score, rel=1e-6),
        "converged": True,
    }  # fmt: skip


def test_it_is_said_in_words_and_in_the_page(saved, capsys):
    path, _ = saved
    said = measured(path, capsys, "--blur", "1.5")
    assert "Soft transport score at blur 1.5: 0." in said
    assert "Soft transport score at blur 1.5: 0." in (path.parent / "out" / "report.html").read_text()
    assert "Soft" not in measured(path, capsys)
    assert "none, for blur must be at least" in measured(path, capsys, "--blur", "1e-9")


def test_a_missing_package_is_named(saved, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "geomloss", None)
    arguments = [
        "measure",
        str(saved[0]),
        "--output",
        str(saved[0].parent),
        "--blur",
        "1",
        "--backend",
        "geomloss",
    ]
    assert main(arguments) == 2
    assert "pip install geomloss pykeops, or use backend=" in capsys.readouterr().err
