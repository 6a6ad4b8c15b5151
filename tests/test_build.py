# SPDX-License-Identifier: MIT
"""The compiled engine: how it is built and rebuilt, what happens without it, and a machine without a GPU."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

import geodesic_fast
from geodesic_fast.engine.load import engine

ROOT = Path(__file__).parent.parent
TRACKED = subprocess.run(
    "git ls-files", shell=True, cwd=ROOT, capture_output=True, text=True, check=False
).stdout.split()
TOOLS = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def run(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.engine
def test_the_engine_has_the_package_version():
    assert engine.version == geodesic_fast.__version__


@pytest.mark.engine
def test_it_links_no_torch_and_no_cuda_library():
    if not sys.platform.startswith("linux"):
        pytest.skip("reads the dynamic section of an ELF file")
    needed = subprocess.run(["ldd", engine.__file__], capture_output=True, text=True, check=True).stdout
    assert "libc" in needed
    assert "torch" not in needed
    assert "cuda" not in needed


@pytest.mark.engine
def test_it_answers_on_a_machine_without_a_gpu():
    assert engine.cuda_device_count() >= 0
    assert isinstance(engine.cuda_archs, str)
    if engine.cuda_archs:
        assert engine.cuda_runtime_version() >= 12010


@pytest.mark.engine
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


def test_without_the_engine_no_limit_is_dropped_in_silence():
    result = run(
        "import sys; sys.modules['geodesic_fast._C'] = None\n"
        "import torch, geodesic_fast as g\n"
        "x = torch.arange(4.0)[:, None]\n"
        "g.ots(x, x + 1); print('silent so far', file=sys.stderr)\n"
        "print(g.ots(x, x + 1, method='tiles', memory_budget=1 << 20, time_budget=5).score)"
    )
    assert result.stdout.strip() == "1.0", result.stderr
    before, _, after = result.stderr.partition("silent so far")
    assert "which it does not follow" not in before
    assert "got method='tiles', memory_budget=1048576, time_budget=5, which it does not follow" in after


def test_other_devices_get_the_reference_and_a_warning():
    with pytest.warns(RuntimeWarning, match="no kernels for device type 'meta'"):
        assert geodesic_fast.lss(torch.zeros(3, 4, 5, device="meta")).shape == (4,)


@pytest.mark.engine
def test_importing_it_prints_nothing():
    result = run("import geodesic_fast")
    assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)


@pytest.fixture
def clone(tmp_path):
    """Sources with the real setup.py and CMakeLists.txt over an engine of three lines."""
    for package in ("setuptools", "pybind11", "cmake", "ninja"):
        pytest.importorskip(package, reason=f"the build needs the package {package}")
    if not shutil.which(os.environ.get("CXX", "c++")):
        pytest.skip("there is no C++ compiler")
    sources = tmp_path / "clone"
    (sources / "csrc" / "module.cpp").parent.mkdir(parents=True)
    (sources / "csrc" / "module.cpp").write_text('extern "C" int PyInit__C() { return 0; }\n')
    for name in ("cpu", "host"):
        (sources / "csrc" / name).mkdir()
        (sources / "csrc" / name / f"{name}.cpp").write_text(f"static int {name}_part;\n")
    (sources / "geodesic_fast").mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, sources)
    for name in ("csrc/CMakeLists.txt", "geodesic_fast/__init__.py"):
        shutil.copy(ROOT / name, sources / name)
    return sources


def build(sources, command="bdist_wheel", **environment):
    """Run a command of setup.py as pip does; return what it said and the files of the wheel."""
    shutil.rmtree(sources / "dist", ignore_errors=True)
    environment = {"PATH": TOOLS, "GEODESIC_FAST_CUDA": "0", **environment}
    done = subprocess.run(
        [sys.executable, "setup.py", command], cwd=sources, check=False, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    wheels = [zipfile.ZipFile(wheel).namelist() for wheel in (sources / "dist").glob("*.whl")]
    return done.stdout, [name for names in wheels for name in names if name.startswith("geodesic_fast/")]


def holds_the_engine(names):
    return any(name.startswith("geodesic_fast/_C") for name in names)


def test_a_clone_builds_again_when_the_ninja_of_the_first_build_is_gone(clone, tmp_path):
    """As pip does: each isolated build has tools of its own, in a folder that is deleted afterwards."""
    for turn in ("first", "second"):
        overlay = tmp_path / turn
        overlay.mkdir()
        (overlay / "ninja").symlink_to(shutil.which("ninja", path=TOOLS))
        said, names = build(clone, PATH=f"{overlay}:{TOOLS}")
        shutil.rmtree(overlay)
        assert holds_the_engine(names)
        assert ("Building CXX object" in said) == (turn == "first"), said  # compiled objects are kept


def test_a_clone_builds_again_at_another_place(clone, tmp_path):
    build(clone)
    clone.rename(tmp_path / "moved")
    assert holds_the_engine(build(tmp_path / "moved")[1])


def test_a_compiler_that_comes_later_is_found(clone):
    said, names = build(clone, CXX="/no/such/compiler")
    assert "no C++ compiler found" in said
    assert "Install g++ or clang++ and reinstall" in said
    assert names
    assert not holds_the_engine(names)
    assert holds_the_engine(build(clone)[1])
    assert not holds_the_engine(build(clone, CXX="/no/such/compiler")[1])  # nor is the earlier engine kept


def test_a_module_that_was_removed_does_not_come_back(clone):
    (clone / "geodesic_fast" / "removed.py").write_text("")
    assert "geodesic_fast/removed.py" in build(clone)[1]
    (clone / "geodesic_fast" / "removed.py").unlink()
    assert "geodesic_fast/removed.py" not in build(clone)[1]


def test_the_source_distribution_holds_what_builds_and_tests_it(tmp_path):
    if not TRACKED:
        pytest.skip("needs git to tell what the sources are")
    sources = tmp_path / "sources"  # a copy, which git does not know
    for name in TRACKED:
        (sources / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, sources / name)
    build(sources, "sdist")
    (packed,) = (sources / "dist").glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    left_out = {name for name in TRACKED if name not in held}
    assert {Path(name).parts[0] for name in left_out} <= {".ci", ".github", ".gitignore"}
    assert "csrc/CMakeLists.txt" in held
    assert not any(name.endswith((".so", ".pyc")) for name in held)
