# SPDX-License-Identifier: MIT
"""A pytest plugin: SHARE_OF_TESTS=k/n leaves every n-th of the chosen tests, from the k-th on."""

import os

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave this process its share of the tests."""
    share, of = map(int, os.environ.get("SHARE_OF_TESTS", "0/1").split("/"))
    kept = items[share::of]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept
