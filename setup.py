# SPDX-License-Identifier: MIT
"""Hands csrc/ to CMake + Ninja; everything else is in pyproject.toml and csrc/CMakeLists.txt."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()


class CleanCopy(build_py):
    """Copy the Python files into an empty folder: pip builds in the sources, next to its earlier builds."""

    def run(self) -> None:
        """Remove what an earlier build left, which the wheel would hold although the sources no longer do."""
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib) / "geodesic_fast", ignore_errors=True)
        super().run()


def forget_tools(build: Path) -> None:
    """Let CMake look for its tools again; the compiled objects stay.

    Its cache names the compiler that was there, or that none was, and the ninja of an isolated build
    environment that pip has deleted since.
    """
    (build / "CMakeCache.txt").unlink(missing_ok=True)
    for found in (build / "CMakeFiles").glob("[0-9]*"):
        shutil.rmtree(found)


class CMakeBuild(build_ext):
    """Build `geodesic_fast._C`, or install without it where there is no C++ compiler."""

    def build_extension(self, ext: Extension) -> None:
        """Configure, build, and leave the module where setuptools expects it."""
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = ROOT / "build" / "cmake"  # one for all Pythons, as kernels know none; not for two clones
        build.mkdir(parents=True, exist_ok=True)
        forget_tools(build)
        cmake = shutil.which("cmake") or "cmake"
        subprocess.run(
            [
                cmake, "-G", "Ninja", "-S", str(ROOT / "csrc"), "-B", str(build),
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-DPython_INCLUDE_DIR={sysconfig.get_path('include')}",
                f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
                f"-DGEODESIC_FAST_MODULE={target.name}",
                f"-DGEODESIC_FAST_VERSION={self.distribution.get_version()}",
                f"-DGEODESIC_FAST_SANITIZE={os.environ.get('GEODESIC_FAST_SANITIZE', '')}",
                f"-DGEODESIC_FAST_CUDA={os.environ.get('GEODESIC_FAST_CUDA', 'auto')}",
                f"-DGEODESIC_FAST_CUDA_ARCHS={os.environ.get('GEODESIC_FAST_CUDA_ARCHS', '')}",
            ],
            check=True,
        )  # fmt: skip
        if (build / "no_cxx_compiler").exists():
            self.warn(
                "no C++ compiler found: geodesic_fast is installed without its compiled engine and will "
                "answer from its plain-torch reference. Install g++ or clang++ and reinstall."
            )
            return
        subprocess.run([cmake, "--build", str(build)], check=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(build / target.name, target)


setup(
    ext_modules=[Extension("geodesic_fast._C", sources=[], optional=True)],
    cmdclass={"build_ext": CMakeBuild, "build_py": CleanCopy},
)
