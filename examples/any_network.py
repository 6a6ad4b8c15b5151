# SPDX-License-Identifier: MIT
"""The tracks of any network: stored, or measured while it runs."""

import torch
from spirals import ResNet, spirals

from geodesic_fast import lss, ots
from geodesic_fast.recording import record, watch

network, (points, _) = ResNet(), spirals()

with record(network, layers="blocks.*") as recording:
    network(points)
print(lss(recording.tracks).mean(), ots(recording.tracks).score)

with torch.no_grad(), watch(network, layers="blocks.*", ends=True) as w:
    network(points)
print(w.geometry.lss.mean(), w.geometry.turning_angle.mean(), ots(*w.ends).score)
