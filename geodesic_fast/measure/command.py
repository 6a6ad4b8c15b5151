# SPDX-License-Identifier: MIT
"""`python -m geodesic_fast measure`: options, the choice of source, the table and the files."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from geodesic_fast import TrackGeometry
from geodesic_fast._command_line import (
    DEVICES,
    UserError,
    choose_device,
    need_folder,
    real_number,
    whole_number,
)
from geodesic_fast._validation import ZERO_STEPS
from geodesic_fast.measure import image_models, language_models, report, track_files, transport
from geodesic_fast.measure.source import Options, Source
from geodesic_fast.metrics.soft_ots import BACKENDS

HELP = (
    "Measure the tracks of a saved file, of a Hugging Face model on a text, or of an image model on images."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `measure`."""
    add = parser.add_argument
    add("source", help="a .npy, .npz, .safetensors or .pt file of tracks; with --text the name or folder of "
        "a Hugging Face model; with --images torchvision:NAME, timm:NAME or such a model")  # fmt: skip
    add("--text", type=Path, help="text file for a language model")
    add("--images", type=Path, help="folder of images for an image model")
    add("--dim", type=int, default=0, help="layer axis of the tracks in a file; features come last")
    add("--key", help="which array of a file that holds several")
    add("--layers", nargs="+", metavar="PATTERN",
        help="modules of the model, as 'blocks.*'; default: its one stack of equal blocks")  # fmt: skip
    add("--repeats", choices=("raise", "append"), default="raise",
        help="append: a layer that runs several times is a point each time, as in ALBERT")  # fmt: skip
    add("--without-special", action="store_true",
        help="leave out tokens that the tokenizer adds or keeps for itself, as [CLS]")  # fmt: skip
    add("--skip-tokens", type=whole_number(0), default=0, metavar="N",
        help="leave out the first N tokens of each piece or image, as a class token")  # fmt: skip
    add("--random-weights", action="store_true", help="the model as built, without trained weights")
    add("--tokens", type=whole_number(2), default=256, help="tokens in each piece of the text")
    add("--batch", type=whole_number(1), default=8, help="pieces of text, or images, in one pass")
    add("--limit", type=whole_number(1), default=512, help="pieces of text, or images, in all")
    add("--zero-step", choices=ZERO_STEPS, default="skip", help="what a step of length zero means")
    add("--ots-points", type=whole_number(0), default=4096, metavar="N",
        help="points of the optimal transport score, at random if there are more; 0: none")  # fmt: skip
    add("--ots-seconds", type=whole_number(1), default=60, metavar="S",
        help="time for that score; after it the answer is an interval")  # fmt: skip
    add("--ots-curve", action="store_true",
        help="the score of random subsets, too: it falls as the points grow in number")  # fmt: skip
    add("--blur", type=real_number(positive=True), metavar="B",
        help="also the soft transport score, smoothed by B in units of the states")  # fmt: skip
    add("--backend", choices=BACKENDS, default="tiles",
        help="of the soft transport score; geomloss needs the packages geomloss and pykeops")  # fmt: skip
    add("--device", choices=DEVICES, default="auto", help="auto: cuda if there is a GPU")
    add("--seed", type=whole_number(0, 2**32 - 1), default=0, help="of random weights")
    add("--json", action="store_true", help="print JSON instead of a table")
    add(
        "--output", type=Path, default=Path("results/measure"), help="folder for report.html and results.json"
    )


def run(args: argparse.Namespace) -> None:
    """Measure the source and write what was found."""
    began = time.perf_counter()
    options = _options(args)
    need_folder(args.output)
    source = _open_source(args, options)
    parts: dict[str, list[TrackGeometry]] = {}
    for name, geometry in _with_progress(source):
        parts.setdefault(name, []).append(TrackGeometry._make(field.cpu() for field in geometry))
    if not any(geometry.lss.numel() for pieces in parts.values() for geometry in pieces):
        remedy = "pass more text or images, or leave out fewer tokens"
        if args.text is None and args.images is None:
            remedy = "look at what saved it"
        raise UserError(f"{args.source} must give at least 1 track, got none: {remedy}.")
    scores = {name: transport.score(ends, options) for name, ends in source.ends.items()}
    found = report.summarise(source, options, parts, scores, time.perf_counter() - began)
    folder = report.write(args.output, found)
    print(report.as_json(found) if args.json else report.as_text(found))
    print(f"Report: {folder / 'report.html'}", file=sys.stderr)


def _options(args: argparse.Namespace) -> Options:
    return Options(
        layers=args.layers, dim=args.dim, key=args.key, random_weights=args.random_weights,
        tokens=args.tokens, batch=args.batch, limit=args.limit, zero_step=args.zero_step,
        device=torch.device(choose_device(args.device)), seed=args.seed,
        ots_points=args.ots_points, ots_seconds=args.ots_seconds,
        blur=args.blur, backend=args.backend,
        repeats=args.repeats, without_special=args.without_special, skip_tokens=args.skip_tokens,
        ots_curve=args.ots_curve,
    )  # fmt: skip


def _open_source(args: argparse.Namespace, options: Options) -> Source:
    if args.text is not None and args.images is not None:
        raise UserError("measure takes --text or --images, got both: pass the one the model reads.")
    if args.text is not None:
        return language_models.open_source(args.source, args.text, options)
    if args.images is not None:
        return image_models.open_source(args.source, args.images, options)
    return track_files.open_source(Path(args.source), options)


def _with_progress(source: Source) -> Iterator[tuple[str, TrackGeometry]]:
    with tqdm(total=source.total, unit=source.unit, disable=not sys.stderr.isatty()) as bar:
        for count, name, geometry in source.measure():
            bar.update(count)
            yield name, geometry
