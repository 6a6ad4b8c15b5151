# SPDX-License-Identifier: MIT
"""Long runs of other processes: they start with the tests, behind them in priority, and are asked for last.

A test module names its runs in IN_BACKGROUND, {name: what to call}; its tests take the fixture `background`,
{name: future}. The tests alone leave half of two processors idle.
"""

import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

_started: dict[str, Future] = {}
_pool = ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)) // 2))


def quietly(command):
    """Return a command that leaves the processors to others."""
    return ["nice", "-n", "19", *command] if shutil.which("nice") else list(command)


def _runs_of(item):
    return getattr(getattr(item, "module", None), "IN_BACKGROUND", {})


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: bool(_runs_of(item)))  # stable: all others keep their order


def pytest_collection_finish(session):
    if session.config.option.collectonly:
        return
    for item in session.items:
        for name, call in _runs_of(item).items():
            if name not in _started:
                _started[name] = _pool.submit(call)


def pytest_sessionfinish():
    _pool.shutdown(wait=False, cancel_futures=True)


@pytest.fixture(scope="session")
def background():
    return _started
