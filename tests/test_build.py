# SPDX-License-Identifier: MIT
"""The compiled engine: what was built, what happens without it, and a machine without a GPU."""

import subprocess
import sys

import pytest
import torch

import geodesic_fast
from geodesic_fast._extension import engine

needs_engine = pytest.mark.skipif(engine is None, reason="the compiled engine is not built")


def run(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


@needs_engine
def test_the_engine_has_the_package_version():
    assert engine.version == geodesic_fast.__version__


@needs_engine
def test_it_links_no_torch_and_no_cuda_library():
    if not sys.platform.startswith("linux"):
        pytest.skip("reads the dynamic section of an ELF file")
    needed = subprocess.run(["ldd", engine.__file__], capture_output=True, text=True, check=True).stdout
    assert "libc" in needed
    assert "torch" not in needed
    assert "cuda" not in needed


@needs_engine
def test_it_answers_on_a_machine_without_a_gpu():
    assert engine.cuda_device_count() >= 0
    assert isinstance(engine.cuda_archs, str)
    if engine.cuda_archs:
        assert engine.cuda_runtime_version() >= 12010


@needs_engine
def test_the_engine_is_what_lss_runs_on():
    before = torch.ops.geodesic_fast.track_geometry
    assert before is not None
    program = "import torch, geodesic_fast as g; print(g.lss(torch.tensor([[0.,0.],[1.,0.],[1.,1.]])).item())"
    result = run("import warnings; warnings.simplefilter('error');" + program)
    assert result.stdout.startswith("1.41421"), result.stderr


def test_without_the_engine_the_reference_answers_after_one_warning():
    result = run(
        "import sys; sys.modules['geodesic_fast._C'] = None\n"
        "import torch, geodesic_fast as g\n"
        "x = torch.tensor([[0., 0.], [1., 0.], [1., 1.]], requires_grad=True)\n"
        "score = g.lss(x); score = g.lss(x); score.backward(); g.track_geometry(x)\n"
        "print(score.item(), x.grad.abs().sum().item() > 0)"
    )
    assert result.stdout.startswith("1.41421"), result.stderr
    assert result.stdout.strip().endswith("True")
    assert (
        result.stderr.count("RuntimeWarning: geodesic_fast answers from its slower plain-torch reference")
        == 1
    )
    assert "Install a C++ compiler" in result.stderr


def test_other_devices_get_the_reference_and_a_warning():
    with pytest.warns(RuntimeWarning, match="no kernels for device type 'meta'"):
        assert geodesic_fast.lss(torch.zeros(3, 4, 5, device="meta")).shape == (4,)


@needs_engine
def test_importing_it_prints_nothing():
    result = run("import geodesic_fast")
    assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)
