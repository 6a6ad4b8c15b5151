# SPDX-License-Identifier: MIT
"""A pytest plugin, `-p without_engine`: the package finds no engine and answers from its references."""

import sys

sys.modules["geodesic_fast._C"] = None
