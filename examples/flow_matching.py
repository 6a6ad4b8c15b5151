# SPDX-License-Identifier: MIT
"""Flow matching on two moons: couple mini-batches one to one, and see how straight the flow becomes."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from geodesic_fast import action, geodesic_gap, ots

BATCH, TOGETHER, ROUNDS = 256, 10, 80  # points of a mini-batch, batches coupled at once, how often
TIMES = [0.0, 0.02, 0.06, 0.12, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.88, 0.94, 0.98, 1.0]


def two_moons(*shape: int) -> Tensor:
    """Return points (*shape, 2) on two interlocking half circles."""
    angle, side = math.pi * torch.rand(shape), torch.randint(2, shape)
    moon = torch.stack((angle.cos() + side - 0.5, angle.sin() * (1 - 2 * side) + 0.5 * side - 0.25), dim=-1)
    return 2 * moon + 0.1 * torch.randn(*shape, 2)


def independent(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    """Leave the points as they come."""
    return x0, x1


def sampled(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    """Draw pairs from each batch's optimal plan, as is popular: points repeat and drop out."""
    x0, x1 = one_to_one(x0, x1)
    drawn = torch.randint(x0.shape[1], (*x0.shape[:2], 1))
    return x0.take_along_dim(drawn, dim=1), x1.take_along_dim(drawn, dim=1)


def one_to_one(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    """Couple each batch of (b, m, d) by its optimal map, which takes every point once."""
    permutation = ots(x0, x1, batch_dims=1).permutation  # (b, m); of one batch: x1[ots(x0, x1).permutation]
    return x0, x1.take_along_dim(permutation[..., None], dim=1)


def unused(x1: Tensor, coupled: Tensor) -> float:
    """Return the share of the points that take part in no pair."""
    there = (x1[:, :, None] == coupled[:, None]).all(-1).any(-1)
    return 1 - there.float().mean().item()


class Velocity(nn.Module):
    """A field v(x, t) in the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return v (*batch, 2) at x (*batch, 2), all at one time or each at its own."""
        return self.net(torch.cat((x, t.expand(*x.shape[:-1], 1)), dim=-1))


def flow(velocity: Velocity, x: Tensor) -> Tensor:
    """Return the states (n+1, m, 2) at TIMES by Euler steps."""
    states = [x]
    for begin, end in pairwise(TIMES):
        states.append(states[-1] + (end - begin) * velocity(states[-1], torch.tensor([begin])))
    return torch.stack(states)


def main() -> None:
    """Train with each coupling and print what the flow costs, how straight it is and what was never used."""
    for couple in (independent, sampled, one_to_one):
        torch.manual_seed(0)
        velocity, dropped = Velocity(), 0.0
        optimizer = torch.optim.Adam(velocity.parameters(), lr=3e-3)
        for _ in range(ROUNDS):
            noise, data = torch.randn(TOGETHER, BATCH, 2), two_moons(TOGETHER, BATCH)
            coupled = couple(noise, data)
            dropped += unused(data, coupled[1]) / ROUNDS
            for x0, x1 in zip(*coupled, strict=True):  # mini-batches (m, d)
                t = torch.rand(BATCH, 1)
                loss = (velocity(torch.lerp(x0, x1, t), t) - (x1 - x0)).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        torch.manual_seed(1)
        with torch.no_grad():
            states, target = flow(velocity, torch.randn(512, 2)), two_moons(512)
        found = geodesic_gap(states, target=target, times=TIMES)
        print(
            f"{couple.__name__}: action {action(states, times=TIMES).mean():.2f}, "
            f"path energy {found.gap.abs():.3f}, not straight {found.rectified_straightness:.3f}, "
            f"distance to the target {ots(states[-1], target).optimal_cost ** 0.5:.2f}, "
            f"points never used {dropped:.0%}"
        )


if __name__ == "__main__":
    main()
