# SPDX-License-Identifier: MIT
"""The folder of a reproduction: each network's files, whole or not there, and what is still to do.

networks/NAME.json      a finished network: its settings and every figure; written last
networks/NAME.pt        its weights and the tracks for the pictures
networks/NAME.part.pt   an unfinished one, as it was after its last whole epoch
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch

from geodesic_fast._command_line import UserError
from geodesic_fast._report import as_json, write_whole
from geodesic_fast.reproduce.experiments import Point, Settings


class Room:
    """The networks of one folder, which all have the same settings."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings
        self.networks = folder / "networks"
        self.networks.mkdir(parents=True, exist_ok=True)

    def finished(self, point: Point) -> dict[str, Any] | None:
        """Return the figures of a finished network, None where it is not; refuse those of other settings."""
        path = self.networks / f"{point.name}.json"
        try:
            found = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            return None
        self._check(path, found.get("settings") if isinstance(found, dict) else None)
        return found

    def save(self, point: Point, found: dict[str, Any], kept: dict[str, Any]) -> None:
        """Save a finished network, and forget how far it had come."""
        self._write(f"{point.name}.pt", kept)
        text = as_json({**found, "settings": self.settings.plain()}) + "\n"
        write_whole(self.networks / f"{point.name}.json", text.encode())
        (self.networks / f"{point.name}.part.pt").unlink(missing_ok=True)

    def kept(self, point: Point) -> dict[str, Any]:
        """Return weights and tracks of a finished network."""
        return torch.load(self.networks / f"{point.name}.pt", weights_only=True, map_location="cpu")

    def save_part(self, point: Point, part: dict[str, Any]) -> None:
        """Save an unfinished network after an epoch."""
        self._write(f"{point.name}.part.pt", {**part, "settings": self.settings.plain()})

    def part(self, point: Point, device: torch.device) -> dict[str, Any] | None:
        """Return an unfinished network, None where there is none that can be read."""
        path = self.networks / f"{point.name}.part.pt"
        try:
            found = torch.load(path, weights_only=True, map_location=device)
        except Exception:  # a broken file raises whatever its bytes make it raise
            return None  # begun anew: nothing but its epochs is lost
        self._check(path, found.get("settings"))
        return found

    def _check(self, path: Path, settings: Any) -> None:
        if settings == self.settings.plain():
            return
        theirs = settings if isinstance(settings, dict) else {}
        other = [k for k, v in self.settings.plain().items() if theirs.get(k) != v]
        raise UserError(
            f"{path} is of a run with other {', '.join(other)}: choose another --output, or the options of "
            "that run."
        )

    def _write(self, name: str, content: dict[str, Any]) -> None:
        stored = io.BytesIO()
        torch.save(content, stored)
        write_whole(self.networks / name, stored.getvalue())
