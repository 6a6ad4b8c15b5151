# SPDX-License-Identifier: MIT
"""How close a deep network's layers come to a geodesic of the Wasserstein space (arXiv:2102.09235)."""

from geodesic_fast.metrics.lss import lss
from geodesic_fast.metrics.ots import OTSResult, ots

__all__ = ["OTSResult", "lss", "ots"]
__version__ = "0.1.0"
