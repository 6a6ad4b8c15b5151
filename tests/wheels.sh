#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds the source distribution and one wheel for each Python at hand into dist/, and tries each wheel in a fresh environment.
# A wheel is for the CPU; GEODESIC_FAST_CUDA=1 adds the CUDA kernels, which take an hour to compile.
# `PYTHONS="python3.12" bash tests/wheels.sh` names other Pythons, `TORCH="torch==2.4.*"` another torch to try them with.
#
# libgomp stays torch's. Torch brings libgomp.so.1 and is imported before the engine, whose need for that name is then met by
# it. A copy in the wheel would have a name of its own: a second pool of threads, deaf to torch.set_num_threads.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$(dirname "$(command -v "${PYTHON:-python3}")")
export GEODESIC_FAST_CUDA="${GEODESIC_FAST_CUDA:-0}" PATH="$tools:$PATH" PIP_DISABLE_PIP_VERSION_CHECK=1
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT

find_python() {  # by its name, or among those of pyenv, which are not on the path
  for candidate in "$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/${1#python}."*/bin/python; do
    if "$candidate" -c "" 2>/dev/null; then echo "$candidate" && return; fi
  done
  return 1
}

python -m build --sdist --outdir dist .
for name in ${PYTHONS:-python3.10 python3.11 python3.12 python3.13 python3.14}; do
  if ! found=$(find_python "$name"); then
    echo "-- no $name here"
    continue
  fi
  echo "-- $name: wheel"
  "$found" -m venv "$made/$name"
  python="$made/$name/bin/python"
  "$python" -m pip wheel --quiet --no-deps --wheel-dir "$made/$name/built" .
  auditwheel repair --exclude libgomp.so.1 --wheel-dir "$made/$name/repaired" "$made/$name"/built/*.whl
  wheel=$(ls "$made/$name"/repaired/*.whl)
  echo "-- $name: tried in an environment of its own, away from the sources"
  "$python" -m pip install --quiet "${TORCH:-torch}"
  "$python" -m pip install --quiet "$wheel"
  cp tests/smoke.py "$made/$name/"
  (cd "$made/$name" && "$python" -W error smoke.py "$wheel")
  cp "$wheel" dist/
done
twine check --strict dist/*
