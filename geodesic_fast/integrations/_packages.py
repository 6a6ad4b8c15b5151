# SPDX-License-Identifier: MIT
"""What to say when an optional package is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

_INSTALLED_AS = {"PIL": "pillow"}


def need(package: str, purpose: str, extra: str) -> ModuleType:
    """Import an optional package, or say for what it is needed and how to get it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = package.split(".")[0]
        name = _INSTALLED_AS.get(name, name)
        raise ImportError(
            f"{purpose} needs the package {name}, got {error}: install it with "
            f"`pip install 'geodesic-fast[{extra}]'` or `pip install {name}`."
        ) from error
