# SPDX-License-Identifier: MIT
"""What this installation can do: versions, compiled engine, CUDA, CPU path, optional packages."""

from __future__ import annotations

import argparse
import json
import platform
from importlib import metadata
from typing import Any

import numpy
import scipy
import torch

import geodesic_fast
from geodesic_fast.engine import load

HELP = "Show versions, the compiled engine, CUDA, the CPU path and which optional packages are present."

# Shown name: the distributions that provide it. Looked up, never imported: some take seconds to load.
OPTIONAL_PACKAGES = {
    "scikit-learn": ("scikit-learn",),
    "matplotlib": ("matplotlib",),
    "geomloss": ("geomloss",),
    "pykeops": ("pykeops",),
    "POT": ("POT",),
    "lapx": ("lapx",),
    "transformers": ("transformers",),
    "lightning": ("lightning", "pytorch-lightning"),
    "torchmetrics": ("torchmetrics",),
    "safetensors": ("safetensors",),
    "tensorboard": ("tensorboard",),
    "torchvision": ("torchvision",),
    "jax": ("jax",),
    "cupy": ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x"),
    "triton": ("triton",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `info`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> None:
    """Print what `gather` found."""
    found = gather()
    print(json.dumps(found, indent=2) if args.json else as_text(found))


def gather() -> dict[str, Any]:
    """Return everything `info` shows, as plain JSON values."""
    return {
        "versions": versions(),
        "engine": this_engine(),
        "cuda": describe_cuda(load.engine if load.is_loaded else None),
        "threads": torch.get_num_threads(),
        "optional_packages": {name: _first_version(names) for name, names in OPTIONAL_PACKAGES.items()},
    }


def versions() -> dict[str, str]:
    """Return the versions that decide a result."""
    return {
        "geodesic_fast": geodesic_fast.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
    }


def this_engine() -> dict[str, Any]:
    """Say whether the engine of this installation is compiled, how, or why not."""
    return describe_engine(load.engine if load.is_loaded else None, load.engine_error)


def describe_engine(engine: Any, error: str) -> dict[str, Any]:
    """Say whether the engine is compiled, how, or why not."""
    if engine is None:
        return {"compiled": False, "why_not": error}
    return {
        "compiled": True,
        "version": engine.version,
        "compiler": engine.compiler,
        "instruction_set": engine.instruction_set,
        "openmp": engine.openmp,
    }


def describe_cuda(engine: Any) -> dict[str, Any]:
    """Say what of CUDA the engine holds, what the driver offers, and which GPUs are visible."""
    compiled = engine is not None and bool(engine.cuda_archs)
    found: dict[str, Any] = {
        "compiled_in": compiled,
        "architectures": None,
        "runtime": None,
        "driver": None,
        "engine_gpus": None,
        "torch_cuda": torch.version.cuda,
        "gpus": _visible_gpus(),
        "why_not": load.why_not("cuda"),
    }
    if engine is not None and compiled:
        found["architectures"] = engine.cuda_archs
        found["runtime"] = cuda_version(engine.cuda_runtime_version())
        found["driver"] = cuda_version(engine.cuda_driver_version())
        found["engine_gpus"] = engine.cuda_device_count()
    return found


def cuda_version(number: int) -> str | None:
    """Turn CUDA's 13020 into "13.2"; 0 means there is none."""
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def as_text(found: dict[str, Any]) -> str:
    """Lay `gather`'s answer out for reading."""
    lines = ["versions", *(_line(name, value) for name, value in found["versions"].items())]
    lines += ["", "compiled engine", *_engine_lines(found["engine"], found["threads"])]
    lines += ["", "CUDA", *_cuda_lines(found["cuda"])]
    packages = found["optional_packages"]
    lines += ["", "optional packages"]
    lines += [_line(name, version or "not installed") for name, version in packages.items()]
    return "\n".join(lines)


def _engine_lines(engine: dict[str, Any], threads: int) -> list[str]:
    if not engine["compiled"]:
        return [
            _line("compiled", f"no: {engine['why_not']}"),
            _line("CPU path", f"plain-torch reference, {threads} threads"),
        ]
    openmp = f"OpenMP, {threads} threads" if engine["openmp"] else "no OpenMP, 1 thread"
    return [
        _line("compiled", f"yes, version {engine['version']}, with {engine['compiler']}"),
        _line("CPU path", f"{engine['instruction_set']}, {openmp}"),
    ]


def _cuda_lines(cuda: dict[str, Any]) -> list[str]:
    lines = [
        _line("compiled in", f"yes, for {cuda['architectures']}" if cuda["compiled_in"] else "no"),
        _line("torch built for", f"CUDA {cuda['torch_cuda']}" if cuda["torch_cuda"] else "CPU only"),
    ]
    if cuda["compiled_in"]:
        lines.append(_line("runtime", cuda["runtime"]))
        lines.append(_line("driver supports", cuda["driver"] or "no driver found"))
        lines.append(_line("GPUs seen by engine", cuda["engine_gpus"]))
    gpus = [f"{gpu['name']}, {gpu['memory_gib']} GiB, sm_{gpu['capability']}" for gpu in cuda["gpus"]]
    lines.append(_line("GPUs seen by torch", "; ".join(gpus) or "none"))
    if cuda["gpus"] and cuda["why_not"]:
        lines.append(_line("on CUDA tensors", f"plain-torch reference: {cuda['why_not']}"))
    return lines


def _line(name: str, value: object) -> str:
    return f"  {name:<20} {value}"


def _visible_gpus() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [
        {
            "name": gpu.name,
            "capability": f"{gpu.major}{gpu.minor}",
            "memory_gib": round(gpu.total_memory / 2**30, 1),
        }
        for gpu in gpus
    ]


def _first_version(names: tuple[str, ...]) -> str | None:
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
