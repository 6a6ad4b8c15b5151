# SPDX-License-Identifier: MIT
"""Doors to other packages, one file each, imported only when asked for by its full name."""
