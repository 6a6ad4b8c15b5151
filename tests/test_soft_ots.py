# SPDX-License-Identifier: MIT
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from transport_problems import half_scrambled, residual, shuffled

from geodesic_fast import ots, reference, soft_ots

pytestmark = pytest.mark.engine


def tensors(family, m, d, seed=0, dtype=torch.float32):
    return tuple(torch.from_numpy(p).to(dtype) for p in family(np.random.default_rng(seed), m, d))


# Matches the float64 reference.


@pytest.mark.parametrize("family", [residual, half_scrambled, shuffled])
@pytest.mark.parametrize(("d", "blur"), [(2, 0.4), (7, 1.0), (40, 2.0)])
def test_equals_plain_sinkhorn(family, d, blur):
    x, y = tensors(family, 150, d)
    result = soft_ots(x, y, blur=blur, tolerance=1e-5, max_iterations=5000)
    assert result.converged
    assert result.soft_score == pytest.approx(reference.soft_ots(x, y, blur=blur, iterations=5000), rel=2e-3)


def test_the_plan_meets_its_marginals_in_float64():
    x, y = tensors(half_scrambled, 120, 5, dtype=torch.float64)
    result = soft_ots(x, y, blur=1.0, tolerance=1e-4)
    u, v = result.potentials
    plan = torch.exp((u[:, None] + v - torch.cdist(x, y).square()) / (2 * 1.0**2)) / 120
    assert plan.diagonal().sum().item() == pytest.approx(result.soft_score, rel=1e-4)
    torch.testing.assert_close(
        plan.sum(1), torch.full((120,), 1 / 120, dtype=torch.float64), rtol=1e-4, atol=0
    )
    assert (plan.sum(0) * 120 - 1).abs().mean() < 2e-4


# Known answers.


def test_two_points_have_a_closed_form():
    # Plan [[p, q], [q, p]] with p / q = exp(cross / blur^2), where cross is <x_1 - x_2, y_1 - y_2>.
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    for blur in (0.5, 1.0, 3.0):
        expected = 1 / (1 + math.exp(-1.0 / blur**2))
        assert soft_ots(x, y, blur=blur, tolerance=1e-6).soft_score == pytest.approx(expected, rel=1e-4)


def test_it_is_another_quantity_than_the_score():
    x = torch.randn(300, 3)
    assert ots(x, 0.9 * x).score == 1.0
    scores = [soft_ots(x, 0.9 * x, blur=blur).soft_score for blur in (0.05, 0.3, 3.0)]
    assert scores[0] > 0.8 > 0.4 > scores[1] > scores[2]
    assert scores[2] == pytest.approx(1 / 300, rel=1.0)


# Invariances.


def test_shifts_and_units():
    x, y = tensors(half_scrambled, 100, 4, dtype=torch.float64)
    score = soft_ots(x, y, blur=1.0, tolerance=1e-5).soft_score
    assert soft_ots(x + 1e4, y - 1e4, blur=1.0, tolerance=1e-5).soft_score == pytest.approx(score, rel=1e-4)
    assert soft_ots(8 * x, 8 * y, blur=8.0, tolerance=1e-5).soft_score == pytest.approx(score, rel=1e-4)
    tiny = 2.0**-80
    assert soft_ots(x * tiny, y * tiny, blur=tiny, tolerance=1e-5).soft_score == pytest.approx(
        score, rel=1e-4
    )


def test_its_potentials_start_an_exact_search():
    x, y = tensors(half_scrambled, 400, 3)
    start = soft_ots(x, y, blur=0.3).potentials
    exact = ots(x, y, potentials=start)
    assert exact.certified
    assert exact.optimal_cost == pytest.approx(ots(x, y).optimal_cost, rel=1e-12)


# geomloss.


@pytest.mark.parametrize(("d", "backend"), [(3, "multiscale"), (7, "online")])
def test_geomloss_and_our_tiles_agree(d, backend, capfd):
    pytest.importorskip("pykeops", reason="pykeops is not installed")
    pytest.importorskip("geomloss", reason="geomloss is not installed")
    capfd.readouterr()  # what the imports of this test say; those of the package are quiet
    x, y = tensors(residual, 200, d)
    ours = soft_ots(x, y, blur=0.5, tolerance=1e-5, max_iterations=5000)
    theirs = soft_ots(x, y, blur=0.5, tolerance=1e-5, max_iterations=5000, backend="geomloss")
    assert theirs.backend == f"geomloss-{backend}"
    assert theirs.soft_score == pytest.approx(ours.soft_score, rel=1e-3)
    assert capfd.readouterr() == ("", "")


def alone(code: str, **environment: str) -> tuple[int, str, str]:
    """Run a program in a process of its own; return its exit code and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, torch\n{code}"],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


SCORE = (
    "x = torch.arange(24.0).view(8, 3); "
    "assert 0 < geodesic_fast.soft_ots(x, x + 1, blur=1.0{}).soft_score < 1"
)


def test_geomloss_is_imported_only_when_asked_for():
    loaded = "sys.exit(any(name in sys.modules for name in ('geomloss', 'pykeops', 'keopscore')))"
    assert alone(f"import geodesic_fast\n{SCORE.format('')}\n{loaded}") == (0, "", "")


def test_geomloss_prints_nothing_of_its_own():
    for package in ("pykeops", "geomloss"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    backend = ", backend='geomloss'"
    assert alone(f"import geodesic_fast\n{SCORE.format(backend)}") == (0, "", "")


def test_a_pykeops_that_breaks_when_imported_leaves_the_rest_working(tmp_path):
    pytest.importorskip("geomloss", reason="geomloss is not installed")
    (tmp_path / "pykeops").mkdir()
    (tmp_path / "pykeops" / "__init__.py").write_text(
        "print('compiling ...')\nraise OSError('libcuda.so.1: cannot open shared object file')\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    backend = ", backend='geomloss'"
    code = (
        f"import geodesic_fast\ntry:\n    {SCORE.format(backend)}\n"
        f"except ImportError as error:\n    print(error)\n{SCORE.format('')}\n"
        "assert geodesic_fast.ots(x, x + 1).score == 1.0"
    )
    code, out, err = alone(code, PYTHONPATH=path)
    assert (code, err) == (0, "")
    assert out == (
        "backend='geomloss' needs the package pykeops, which cannot be imported (OSError: libcuda.so.1: "
        "cannot open shared object file): pip install pykeops, or use backend='tiles'.\n"
    )


def test_a_missing_geomloss_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "geomloss", None)
    x = torch.randn(10, 2)
    with pytest.raises(
        ImportError, match=r"needs the package geomloss.*pip install geomloss pykeops, or use backend"
    ):
        soft_ots(x, x, blur=1.0, backend="geomloss")
    assert soft_ots(x, x, blur=1.0).converged


def test_four_processes_may_call_it_at_once_before_anything_is_compiled(tmp_path):
    for package in ("pykeops", "geomloss"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    code = (
        "import torch, geodesic_fast\nx = torch.arange(40.0).reshape(8, 5)\n"
        "print(geodesic_fast.soft_ots(x, x + 1, blur=1.0, backend='geomloss').soft_score)"
    )
    settings = {"KEOPS_CACHE_FOLDER": str(tmp_path), "CXXFLAGS": "-O0", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], env={**os.environ, **settings},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    said = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    assert len({out for out, _ in said}) == 1
    assert all(err == "" for _, err in said)


def test_a_missing_compiler_is_named_with_its_remedy(tmp_path):
    for package in ("pykeops", "geomloss"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    code = f"import geodesic_fast\ntry:\n    {SCORE.format(', backend=' + repr('geomloss'))}\n"
    code += "except RuntimeError as error:\n    print(error)"
    nowhere = {"PATH": str(tmp_path), "CXX": "/no/compiler", "KEOPS_CACHE_FOLDER": str(tmp_path)}
    assert alone(code, **nowhere) == (
        0,
        "backend='geomloss' compiles with KeOps at run time and finds no C++ compiler: install g++, "
        "or use backend='tiles'.\n",
        "",
    )


@pytest.mark.parametrize("d", [3, 7])
def test_potentials_of_each_serve_the_other(d):
    """Ours are geomloss's up to a constant, and both start the exact search."""
    pytest.importorskip("pykeops", reason="pykeops is not installed")
    geomloss = pytest.importorskip("geomloss", reason="geomloss is not installed")
    x, y = tensors(half_scrambled, 150, d, dtype=torch.float64)
    blur, m = 1.0, 150
    ours = soft_ots(x, y, blur=blur, tolerance=1e-6, max_iterations=5000)
    u, v = ours.potentials  # of |x - y|^2, plan exp((u + v - cost) / 2 blur^2) / m
    # geomloss: of |x - y|^2 / 2, plan exp((f + g - cost) / blur^2) / m^2
    our_f, our_g = u / 2 + blur**2 * math.log(m), v / 2
    loss = geomloss.SamplesLoss(
        "sinkhorn", blur=blur, scaling=0.999, debias=False, potentials=True, backend="tensorized"
    )
    f, g = (potential.reshape(-1) for potential in loss(x, y))

    def plan(f, g):
        return torch.exp((f[:, None] + g - torch.cdist(x, y).square() / 2) / blur**2) / m**2

    theirs = plan(f, g).diagonal().sum().item()
    assert plan(our_f, our_g).diagonal().sum().item() == pytest.approx(theirs, rel=5e-2)
    shift = (our_f - f).mean()
    torch.testing.assert_close(our_f - shift, f, rtol=0, atol=0.05)
    torch.testing.assert_close(our_g + shift, g, rtol=0, atol=0.05)
    for start in ((2 * f, 2 * g), (u, v), soft_ots(x, y, blur=blur, backend="geomloss").potentials):
        exact = ots(x, y, method="stored", potentials=start)
        assert exact.certified
        assert exact.optimal_cost == pytest.approx(ots(x, y).optimal_cost, rel=1e-12)


# Says what is wrong.


def test_says_what_is_wrong():
    x = torch.randn(20, 3)
    with pytest.raises(ValueError, match="blur must be positive"):
        soft_ots(x, x, blur=0.0)
    with pytest.raises(ValueError, match=r"blur must be at least about .* Use ots, which is exact"):
        soft_ots(x, x, blur=1e-6)
    with pytest.raises(ValueError, match="backend must be one of 'tiles', 'geomloss'"):
        soft_ots(x, x, blur=1.0, backend="online")
    with pytest.raises(ValueError, match="same width"):
        soft_ots(x, x[:, :2], blur=1.0)


def test_warns_when_the_marginals_are_not_met():
    x, y = tensors(half_scrambled, 100, 3)
    with pytest.warns(RuntimeWarning, match="raise max_iterations, blur or tolerance"):
        result = soft_ots(x, y, blur=0.05, max_iterations=2)
    assert not result.converged


def test_takes_tracks_along_any_axis():
    x = torch.randn(4, 30, 5)
    expected = soft_ots(x[0], x[-1], blur=0.7)
    for given, dim in ((x, 0), (x.movedim(0, 1), 1), (list(x), 0)):
        assert soft_ots(given, blur=0.7, dim=dim) == expected
        assert reference.soft_ots(given, blur=0.7, dim=dim) == pytest.approx(expected.soft_score, abs=1e-3)
    with pytest.raises(ValueError, match="dim must be 0 with y, got 1: it is the layer axis of tracks"):
        soft_ots(x[0], x[-1], blur=0.7, dim=1)
