# SPDX-License-Identifier: MIT
"""`pytest benchmarks`: what a run is told of, and `--quick`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import measure
import pytest

RUNS = Path(__file__).parent / "runs"
QUICK_SECONDS, QUICK_ROUNDS = "0.1", 3  # of each benchmark


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="small problems and few rounds")


def pytest_configure(config: Any) -> None:
    if config.option.benchmark_storage == "file://./.benchmarks":  # not chosen
        config.option.benchmark_storage = RUNS.as_uri()
    config.option.benchmark_columns = ["min", "median", "iqr", "rounds"]
    config.option.benchmark_sort = "name"
    if config.getoption("quick"):
        config.option.benchmark_max_time, config.option.benchmark_min_rounds = QUICK_SECONDS, QUICK_ROUNDS


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    """Name the machine as the tables do; its name in its network is nobody's business."""
    for name in ("node", "release", "python_build"):
        machine_info.pop(name, None)
    machine_info["cpu"] = {"brand_raw": machine_info.get("cpu", {}).get("brand_raw", "unknown")}
    machine_info |= {key: value for key, value in measure.machine("cpu").items() if key != "commit"}


def pytest_benchmark_update_commit_info(config: Any, commit_info: dict[str, Any]) -> None:
    """The folder that the repository lies in and its branch are not part of a result."""
    for name in ("project", "branch"):
        commit_info.pop(name, None)
