# SPDX-License-Identifier: MIT
"""What LSS and OTS are for tracks whose answer is known, and for networks that were not trained."""

import torch

from geodesic_fast import lss, ots


def network(depth: int, d: int, residual: bool, points: torch.Tensor) -> torch.Tensor:
    """Return the states (depth+1, m, d) of an untrained network."""
    states = [points]
    for _ in range(depth):
        change = torch.relu(torch.nn.Linear(d, d)(states[-1]))
        states.append(states[-1] + change / depth if residual else change)
    return torch.stack(states)


def tracks(n: int, m: int, d: int) -> dict[str, torch.Tensor]:
    """Return tracks (n+1, m, d) by name."""
    points = torch.randn(m, d)
    return {
        "straight line": points + torch.arange(n + 1.0)[:, None, None] * torch.randn(m, d),
        "random walk": torch.randn(n + 1, m, d).cumsum(0),
        "independent states": torch.randn(n + 1, m, d),
        "residual network": network(n, d, True, points),
        "plain network": network(n, d, False, points),
    }


print(f"{'':20} {'n':>3} {'sqrt(n)':>8} {'LSS':>7}   OTS of (m, d) = (100, 8)  (1000, 8)  (100, 512)")
with torch.no_grad():
    for n in (12, 48):
        few, many, wide = tracks(n, 100, 8), tracks(n, 1000, 8), tracks(n, 100, 512)
        for name in few:
            scores = [f"{ots(of[name]).score:10.2f}" for of in (few, many, wide)]
            print(f"{name:20} {n:3} {n**0.5:8.2f} {lss(wide[name]).mean():7.2f}   {'':14}{' '.join(scores)}")
