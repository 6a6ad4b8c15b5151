# SPDX-License-Identifier: MIT
"""The scores as torchmetrics, over batches and processes."""

from spirals import ResNet, spirals
from torchmetrics import MetricCollection

from geodesic_fast.integrations.torchmetrics import LineShapeScore, OptimalTransportScore, TrackGeometry

metrics = MetricCollection({"line": LineShapeScore(), "ots": OptimalTransportScore(), "all": TrackGeometry()})
network, (points, _) = ResNet(), spirals()
for batch in points.split(100):
    _, states = network(batch)
    metrics.update(states)
print({name: round(value.item(), 3) for name, value in metrics.compute().items()})
