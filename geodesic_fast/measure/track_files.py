# SPDX-License-Identifier: MIT
"""Tracks saved as one array (n+1, *batch, d), or as one array per layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geodesic_fast import TrackGeometry, lss_shuffled, step_geometry, track_geometry
from geodesic_fast._arrays import as_tensors
from geodesic_fast._command_line import UserError
from geodesic_fast._tracks import MAX_LISTED_LAYERS, Tracks
from geodesic_fast.integrations._packages import need
from geodesic_fast.measure.source import Options, Source

KINDS = (".npy", ".npz", ".safetensors", ".pt", ".pth")
_PIECE_BYTES = 64 << 20


def open_source(path: Path, options: Options) -> Source:
    """Read a file of tracks; a .npy file stays on disk until its pieces are measured."""
    content = _choose(_load(path), options.key, path)
    try:
        tracks = as_tensors(content)
        _check_dense(tracks, path)
        if isinstance(tracks, list | tuple) and len(tracks) > MAX_LISTED_LAYERS:
            tracks = torch.stack(list(tracks)).movedim(0, options.dim)
        given = Tracks.of(tracks, options.dim)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise UserError(f"{path}: {error}") from error
    about = f"{given.points} points per track, {given.m} tracks {tuple(given.batch)}, {given.d} features"

    def measure() -> Iterator[tuple[int, str, TrackGeometry]]:
        for rows in _pieces(given):
            some = given.map(rows).map(lambda x: x.to(options.device))
            piece = some.as_given()
            geometry = track_geometry(piece, zero_step=options.zero_step)
            source.take_ends("tracks", *some.ends(), options)
            source.profiles.setdefault("tracks", []).append(step_geometry(piece).profile())
            shuffled = lss_shuffled(piece, seed=options.seed, zero_step=options.zero_step)
            source.shuffled.setdefault("tracks", []).append(shuffled.reshape(-1).cpu())
            yield geometry.lss.numel(), "tracks", geometry

    names = [str(layer) for layer in range(1, given.points)]
    source = Source(path.name, about, given.m, "track", measure, {"tracks": names})
    return source


def _pieces(tracks: Tracks) -> Iterator[Callable[[Tensor], Tensor]]:
    """Cut rows of the first axis of the batch, so many at a time as fit into a piece."""
    if not tracks.batch:
        yield lambda layer: layer
        return
    axis, bytes_each = 1 if tracks.is_stacked else 0, tracks.layers[0].element_size()
    row = tracks.m // max(1, tracks.batch[0]) * tracks.d * tracks.points * bytes_each
    rows = max(1, _PIECE_BYTES // max(1, row))
    for begin in range(0, tracks.batch[0], rows):
        count = min(rows, tracks.batch[0] - begin)
        yield lambda layer, begin=begin, count=count: layer.narrow(axis, begin, count)  # type: ignore[misc]


def _load(path: Path) -> Any:
    if path.suffix not in KINDS:
        raise UserError(
            f"{path} must be a file of tracks ({', '.join(KINDS)}) or a model with --text or --images, got "
            "neither: "
            "pass --text FILE for a language model, --images FOLDER for an image model."
        )
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path} must be a file of tracks, got {found}: check the path.")
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return dict(archive)
        if path.suffix == ".safetensors":
            return need("safetensors.torch", "a .safetensors file", "transformers").load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise UserError(str(error)) from error
    except Exception as error:
        told = next(iter(str(error).splitlines()), type(error).__name__)  # an empty file: EOFError alone
        raise UserError(
            f"{path} must hold plain arrays that its suffix names, got {told!r}: "
            "save a tensor, a list of layers, or a dict of tensors."
        ) from error


def _choose(content: Any, key: str | None, path: Path) -> Any:
    if isinstance(content, Mapping):
        content = {str(name): value for name, value in content.items()}
        names = list(content)
        if key is not None and key not in content:
            raise UserError(f"--key must name an array of {path}, got {key!r}: it holds {', '.join(names)}.")
        if key is not None:
            content = content[key]
        elif len(names) == 1:
            content = content[names[0]]
        elif not names:
            raise UserError(f"{path} must hold one array, or one per layer, got none.")
        elif layers := _numbered(names):
            content = [content[name] for name in layers]
        else:
            raise UserError(
                f"{path} must hold one array, or layers numbered from first to last, got {', '.join(names)}: "
                "choose one with --key."
            )
    elif key is not None:
        raise UserError(
            f"--key must be left out for {path}, got {key!r}: the file holds one thing without a name."
        )
    return content


def _check_dense(tracks: Any, path: Path) -> None:
    if isinstance(tracks, Tensor) and tracks.layout != torch.strided:
        raise UserError(f"{path} must hold dense arrays, got one of {tracks.layout}: save x.to_dense().")


def _numbered(names: list[str]) -> list[str] | None:
    """The names in the order of their numbers, if they differ in one number alone, without a gap."""
    parts = [re.fullmatch(r"(\D*)(\d+)(\D*)", name) for name in names]
    if not all(parts):
        return None
    found = [part for part in parts if part]
    if len({(part[1], part[3]) for part in found}) > 1:
        return None
    numbers = sorted(int(part[2]) for part in found)
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        return None
    return [part[0] for part in sorted(found, key=lambda part: int(part[2]))]
