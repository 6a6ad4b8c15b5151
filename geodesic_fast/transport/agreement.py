# SPDX-License-Identifier: MIT
"""How processes that share a transport problem go about it: one way, one budget, one start."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from geodesic_fast._processes import Processes
from geodesic_fast._validation import check_choice, check_finite_rows, check_positive, check_potentials
from geodesic_fast.transport.planner import METHODS


class Options(NamedTuple):
    """How a problem is to be solved, as `ots` is told."""

    method: str
    potentials: tuple[Tensor, Tensor] | None
    memory_budget: int | None
    time_budget: float | None
    verbose: bool


def agreed_options(options: Options, processes: Processes) -> Options:
    """Return the options of all processes: the least of their budgets, the first one's potentials."""
    check_choice("method", options.method, METHODS)
    check_positive("memory_budget", options.memory_budget)
    check_positive("time_budget", options.time_budget)
    chosen = processes.numbers(2 * METHODS.index(options.method) + (options.potentials is not None))
    if len(set(chosen)) > 1:
        ways = (f"{METHODS[of // 2]!r} with{'' if of % 2 else 'out'} potentials" for of in set(chosen))
        raise ValueError(
            f"method and potentials must be given alike on all processes, got {' and '.join(sorted(ways))}."
        )
    budgets = [math.inf if of is None else float(of) for of in (options.memory_budget, options.time_budget)]
    memory, seconds = processes.lowest(torch.tensor(budgets, dtype=torch.float64)).tolist()
    return options._replace(
        memory_budget=int(memory) if memory < math.inf else None,
        time_budget=seconds if seconds < math.inf else None,
    )


def agreed_potentials(
    potentials: tuple[Tensor, Tensor] | None, m: int, device: torch.device, processes: Processes
) -> tuple[Tensor, Tensor] | None:
    """Return the first process's potentials (m) each of all points."""
    if potentials is None:
        return None
    check_potentials(potentials, (m,))
    u, v = (processes.same(p.detach().to(device)) for p in potentials)
    check_finite_rows("potentials", torch.stack([u, v], dim=1))
    return u, v
