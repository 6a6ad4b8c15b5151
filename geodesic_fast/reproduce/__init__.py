# SPDX-License-Identifier: MIT
"""The paper's experiments by one command: networks, training, measuring, and what held of the findings."""
