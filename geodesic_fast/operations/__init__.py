# SPDX-License-Identifier: MIT
"""The engine's differentiable kernels as registered operations, one file for each."""
