# SPDX-License-Identifier: MIT
"""The report on machine code: of a kernel whose loop is counted by hand, and of one with a stack frame."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = """
#include <cuda_pipeline_primitives.h>
#include <cstdint>
__global__ void copy(const float4* from, float4* to, int64_t count) {
  #pragma unroll 1
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) to[i] = from[i];
}
// As a backward kernel: rows are read into shared memory first, the rows of a gap are filled on the way, and
// the rows left over at the end; what counts is the loop that works.
__global__ void through(const float4* from, float4* to, const int* gaps, int rows, int fields) {
  __shared__ float4 ring[4][256];
  __shared__ float part[8];
  const int me = threadIdx.x;
  #pragma unroll 1
  for (int row = 0; row < 3; ++row) __pipeline_memcpy_async(&ring[row][me], from + row * 256 + me, 16);
  float4 before = {};
  int64_t at = 0;
  #pragma unroll 1
  for (int row = 0; row < rows; ++row) {
    __pipeline_memcpy_async(&ring[(row + 3) % 4][me], from + (row + 3) * 256 + me, 16);
    __pipeline_commit();
    __pipeline_wait_prior(3);
    const float4 x = ring[row % 4][me];
    float length = x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
    if (blockDim.x > 32) {
      part[me / 32] = length;
      __syncthreads();
      length = part[row % 8];
    }
    if (length > 1e-30f) length = sqrtf(length);
    #pragma unroll 1
    for (int gap = gaps[row]; gap > 0; --gap) to[at++ * 256 + me] = float4{0, 0, 0, 0};
    to[at++ * 256 + me] = float4{x.x * length - before.x, x.y - before.y, x.z - before.z, x.w - before.w};
    before = x;
  }
  #pragma unroll 1
  for (; at < 4 * rows; ++at) to[at * 256 + me] = float4{0, 0, 0, 0};
  float sum = 0;  // one value of each row: many loops over little do not count
  #pragma unroll 1
  for (int row = 0; row < rows; ++row) sum += sqrtf(from[row].x) * expf(from[row].y) / from[row].z;
  if (me < fields) to[me].x = sum;
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
    prediction = report.predict(kernel, report.ARCHITECTURES["sm_90"])
    assert prediction.a_byte == loop.instructions / (32 * 32)
    assert "%" in prediction.line()


def test_the_loop_that_works_is_counted_and_not_one_that_fills(report, kernels):
    code = find(kernels, "through").code
    loop = report.inner_loop(code)
    assert loop.moved == 32  # 16 bytes read and 16 written; rows of a gap are on no way
    assert loop.groups == 4
    passed = [report.inner_loop(code, report.Launch(roots=roots)) for roots in (0, 1)]
    assert passed[0].instructions < passed[1].instructions < 150  # by way of the root


def test_a_barrier_on_the_way_is_counted(report):
    def loop(barrier):
        texts = [
            "LDG.E.128 R4, desc[UR4][R2.64]",
            "@P0 BRA 0x40",
            barrier,
            "FADD R1, R1, R4",
            "FADD R0, R0, R4",
        ]
        code = [report.Instruction(16 * place, text) for place, text in enumerate(texts)]
        code[1].target = 0x40
        return report.inner_loop([*code, report.Instruction(0x50, "@P1 BRA 0x0", 0)])

    assert loop("BAR.SYNC.DEFER_BLOCKING 0x0").instructions == 6
    assert loop("FMUL R1, R1, R1").instructions == 4


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
        share[registers] = report.predict(report.Kernel("some", code, registers=registers), arch).share
    assert share[255] < share[32] <= 1
