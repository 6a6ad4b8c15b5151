#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds the CPU engine with the address and undefined-behaviour sanitizers and runs its tests on it.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
target=$(mktemp -d)
trap 'rm -rf "$target"' EXIT
git archive HEAD | tar -x -C "$target" --one-top-level=sources
GEODESIC_FAST_CUDA=0 GEODESIC_FAST_SANITIZE=address,undefined PIP_CONSTRAINT="$PWD/constraints.txt" \
  "$python" -m pip install --disable-pip-version-check --quiet --no-deps --target "$target/site" "$target/sources"
# torch and the interpreter keep memory until exit, which is no leak of ours
LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)" \
  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 PYTHONPATH="$target/site" \
  "$python" -P -m pytest -q -p no:cacheprovider -m "not gpu" -k "not compiled and not opcheck and not takes_memory" "$@" \
  tests/test_lss.py tests/test_lss_gradients.py tests/test_track_geometry.py tests/test_track_accumulator.py \
  tests/test_line_deviation.py tests/test_line_deviation_gradients.py tests/test_chord_deviation.py \
  tests/test_track_distance.py tests/test_track_distance_gradients.py tests/test_nearest_track.py tests/test_geodesic_bound.py tests/test_step_geometry.py \
  tests/test_ots.py tests/test_ots_batch.py tests/test_transport_passes.py tests/test_transport_sparse_assignment.py tests/test_transport_exact.py
