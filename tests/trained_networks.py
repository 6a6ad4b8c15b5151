# SPDX-License-Identifier: MIT
"""What the tests of the training callbacks share: a tiny network, and what training must leave as it was."""

import torch
from torch import nn

import geodesic_fast

FIELDS = {f"geodesic/{name}" for name in geodesic_fast.TrackGeometry._fields}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.3)) for _ in range(4)
        )

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(map(torch.equal, a.parameters(), b.parameters()))


def hook_count(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
