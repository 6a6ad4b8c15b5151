# SPDX-License-Identifier: MIT
"""A pytest plugin, `-p without_engine`: the functions answer from their references, as without a compiler."""

import pytest


@pytest.fixture(autouse=True)
def _without_engine(monkeypatch):
    from geodesic_fast import _extension

    monkeypatch.setitem(_extension._REASONS, "cpu", "it is left out of this test.")
