# SPDX-License-Identifier: MIT
"""The main job: train residual and plain networks on handwritten digits and measure both scores."""
