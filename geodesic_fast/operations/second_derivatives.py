# SPDX-License-Identifier: MIT
"""The kernels differentiate once; whoever asks for more is told what to do."""

from __future__ import annotations

from typing import Any


def refuse_second_derivatives(backward: Any, *metrics: str) -> None:
    """Make the derivative of a registered backward operation, which serves `metrics`, say so."""

    def refuse(ctx: Any, *_: Any) -> None:
        verb = "has" if len(metrics) == 1 else "have"
        raise NotImplementedError(
            f"{' and '.join(metrics)} {verb} first derivatives only: call backward without "
            f"create_graph=True, or use {metrics[0]}_reference, which autograd can differentiate twice."
        )

    backward.register_autograd(refuse)
