# SPDX-License-Identifier: MIT
"""The report on machine code: of a kernel whose loop is counted by hand, and of one with a stack frame."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = """
#include <cstdint>
__global__ void copy(const float4* from, float4* to, int64_t count) {
  #pragma unroll 1
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) to[i] = from[i];
}
__global__ void indexed(float* to, int which) {
  float held[64];
  #pragma unroll 1
  for (int i = 0; i < 64; ++i) held[i * which % 64] = to[i];
  to[0] = held[which];
}
"""


@pytest.fixture(scope="module")
def report():
    sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
    yield importlib.import_module("sass_report")
    sys.path.pop(0)


@pytest.fixture(scope="module")
def kernels(report, tmp_path_factory):
    missing = [name for name in ("nvcc", "cuobjdump", "nvdisasm") if report.tool(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} of the CUDA toolkit")
    folder = tmp_path_factory.mktemp("sass")
    (folder / "some.cu").write_text(SOURCE)
    cubin = folder / "some.cubin"
    subprocess.run(
        [report.tool("nvcc"), "-arch=sm_90", "-cubin", folder / "some.cu", "-o", cubin], check=True
    )
    return {kernel.name: kernel for kernel in report.kernels_in(cubin, "sm_90")}


def find(kernels, name):
    return next(kernel for found, kernel in kernels.items() if name in found)


def test_a_loop_is_counted(report, kernels):
    kernel = find(kernels, "copy")
    loop = report.inner_loop(kernel.code)
    assert loop.moved == 32  # 16 bytes read and 16 written
    assert 6 <= loop.instructions <= 24  # a load, a store, two addresses, a count, a comparison, a branch
    assert kernel.registers > 4
    assert "%" in report.report(kernel, report.ARCHITECTURES["sm_90"])


def test_a_stack_frame_is_told(report, kernels):
    assert report.check([find(kernels, "copy")]) == []
    (sentence,) = report.check([find(kernels, "indexed")])
    assert "stack" in sentence


def test_names_are_read(report):
    name = report.readable(
        "_ZN13geodesic_fast4cuda62_GLOBAL__N__e11d9d48_29_lss_track_geometry_forward_cu_c166be0214forward_kernel"
        "I13__nv_bfloat16Lb1ELb0EEEvNS0_12DeviceTracksENS_15GeometryForwardEii"
    )
    assert name == "lss_track_geometry_forward::forward_kernel<bf16, true, false>"


def test_two_limits_near_each_other_cost_both(report):
    arch = report.ARCHITECTURES["sm_90"]
    code = [report.Instruction(16 * i, "FADD R0, R0, R1") for i in range(30)]
    code[0] = report.Instruction(0, "LDG.E.128 R4, desc[UR4][R2.64]")
    code[-1] = report.Instruction(16 * 29, "@P0 BRA 0x0", 0)
    share = {}
    for registers in (32, 255):
        line = report.report(report.Kernel("some", code, registers=registers), arch)
        share[registers] = int(line.split("%")[0].split()[-1])
    assert share[255] < share[32] <= 100
