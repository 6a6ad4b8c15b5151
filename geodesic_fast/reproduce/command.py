# SPDX-License-Identifier: MIT
"""`python -m geodesic_fast reproduce`: options, the grid over processes, Ctrl-C, and the report."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from geodesic_fast._command_line import (
    DEVICES,
    UserError,
    choose_device,
    need_folder,
    real_number,
    whole_number,
)
from geodesic_fast.demo.networks import KINDS
from geodesic_fast.reproduce import data, experiments, training
from geodesic_fast.reproduce.data import Images
from geodesic_fast.reproduce.experiments import EXPERIMENTS, GAMMA_MEANS, PRECISIONS, PRESETS, Point, Settings
from geodesic_fast.reproduce.room import Room

HELP = "Repeat the experiments of the paper, value beside value, and say which of its findings hold."
OTS_SIZES = (100, 1000, 10_000)
OF_PRESET = "default: the preset's"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `reproduce`."""
    add, whole = parser.add_argument, whole_number
    add("experiment", choices=tuple(EXPERIMENTS), help="mnist and digits need no --data")
    add("--preset", choices=PRESETS, default="paper", help="paper: published epochs; quick: minutes on a CPU")
    add("--data", type=Path, metavar="FOLDER", help="MNIST as IDX files, CIFAR as binary or pickled batches")
    add("--output", type=Path, help="folder of networks and report; default: results/EXPERIMENT-PRESET")
    add("--gamma", type=real_number(positive=False), nargs="+", metavar="G",
        help="strengths of L2 regularisation; default: the published ones")  # fmt: skip
    add("--gamma-means", choices=GAMMA_MEANS, default="loss",
        help="loss: gamma times the sum of squared weights is added to the loss; decay: each step multiplies "
        "the weights by 1 - learning rate * gamma")  # fmt: skip
    add("--seed", type=whole(0, 2**31), default=0, help="of everything: split, weights, batches")
    add("--seeds", type=whole(1, 1000), metavar="N", help=f"networks a point, from --seed on; {OF_PRESET}")
    add("--widths", type=whole(1, 65536), nargs="+", metavar="W", help=f"of the stages; {OF_PRESET}")
    add("--depth", type=whole(1, 1000), default=experiments.DEPTH, help="blocks, or steps, of a stage")
    add(
        "--patch",
        type=whole(1, 64),
        metavar="P",
        help=f"pixels a side that are embedded together; {OF_PRESET}",
    )
    add("--convolutions", type=whole(1, 100), metavar="C", help=f"in a block; {OF_PRESET}")
    add("--head", choices=experiments.HEADS,
        help="of convolutional networks; linear: reads the last state itself; pool: batchnorm, relu and the "
        f"mean over all places come before; {OF_PRESET}")  # fmt: skip
    add("--epochs", type=whole(1), help=f"passes over the training images, per network; {OF_PRESET}")
    add("--batch", type=whole(2), help=f"images in a step; {OF_PRESET}")
    add("--learning-rate", type=real_number(positive=True), help=f"of SGD, at the start; {OF_PRESET}")
    add("--augment", action=argparse.BooleanOptionalAction, help="shift and mirror images; default: of CIFAR")
    add("--samples", type=whole(0), default=0, help="test samples that are measured, 0: all")
    add("--ots-sizes", type=whole(1), nargs="+", default=list(OTS_SIZES), metavar="M",
        help="numbers of points of OTS, besides all")  # fmt: skip
    add("--precision", choices=PRECISIONS, default="float32", help="of training; measured in float32")
    add("--compile", action="store_true", help="train through torch.compile")
    add("--device", choices=DEVICES, default="auto", help="auto: cuda if there is a GPU")


def run(args: argparse.Namespace) -> None:
    """Train and measure what is missing, and write the report once all is there."""
    _need_matplotlib()
    folder = args.output or Path("results") / f"{args.experiment}-{args.preset}"
    need_folder(folder)
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = _device(args.device)
    with _repeatable(device):
        images = data.load(args.experiment, args.data, args.seed, device)
        settings = settings_of(args, images, device)
        room = Room(folder, settings)
        points = _grid(args)
        _train_all(points, points[rank::processes], settings, images, room)
        found = [room.finished(point) for point in points]
        if all(found):  # of several processes the last one finds the others' networks, too
            _report(room, points, [network for network in found if network], images)
        else:
            print(f"{sum(map(bool, found))} of {len(points)} networks are finished; others are under way.")


def _grid(args: argparse.Namespace) -> list[Point]:
    experiment = EXPERIMENTS[args.experiment]
    seeds = args.seeds or experiment.sizes[args.preset].seeds
    gammas = tuple(sorted(set(args.gamma or experiment.gammas)))
    return experiments.grid(gammas, range(args.seed, args.seed + seeds), KINDS)


def settings_of(args: argparse.Namespace, images: Images, device: torch.device) -> Settings:
    """Return what the options and the preset say; the options win."""
    experiment = EXPERIMENTS[args.experiment]
    size = experiment.sizes[args.preset]
    dense = size.patch == 0
    if dense and (args.patch or args.convolutions or args.head or args.augment or len(args.widths or ()) > 1):
        raise UserError(
            f"{args.experiment} trains perceptrons of one width, got an option of convolutional networks: "
            "leave out --patch, --convolutions, --head, --augment and all --widths but one."
        )
    return Settings(
        experiment=args.experiment, data=images.title, digest=images.digest, split_seed=args.seed,
        gamma_means=args.gamma_means, widths=tuple(args.widths or size.widths),
        patch=args.patch or size.patch, convolutions=args.convolutions or size.convolutions,
        head=args.head or size.head, depth=args.depth, epochs=args.epochs or size.epochs,
        batch=args.batch or size.batch, learning_rate=args.learning_rate or size.learning_rate,
        augment=experiment.augment if args.augment is None else args.augment, precision=args.precision,
        compiled=args.compile, samples=args.samples, ots_sizes=tuple(sorted(set(args.ots_sizes))),
        device=device.type,
    )  # fmt: skip


def _device(name: str) -> torch.device:
    """Return the device of this process: with torchrun, each of a machine's processes has its own GPU."""
    kind = choose_device(name)
    if kind == "cpu":
        return torch.device("cpu")
    return torch.device(kind, int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def _train_all(
    points: list[Point], mine: list[Point], settings: Settings, images: Images, room: Room
) -> None:
    missing = [point for point in mine if room.finished(point) is None]
    total = len(mine) * settings.epochs
    done = (len(mine) - len(missing)) * settings.epochs
    try:
        with tqdm(
            total=total,
            initial=done,
            unit="epoch",
            file=sys.stderr,
            dynamic_ncols=True,
            disable=points[0] not in mine,
        ) as bar:
            for number, point in enumerate(missing):
                bar.set_description_str(
                    f"{point.kind}, gamma {point.gamma:g}, seed {point.seed}", refresh=False
                )
                begun = done + number * settings.epochs

                def show(epoch: int, begun: int = begun) -> None:
                    bar.update(begun + epoch - bar.n)

                training.complete(point, settings, images, room, points[0], show)
    except KeyboardInterrupt:
        finished = sum(room.finished(point) is not None for point in points)
        raise KeyboardInterrupt(
            f"ended by Ctrl-C; {finished} of {len(points)} networks are finished and saved in {room.folder}, "
            "the one under way up to its last whole epoch. The same command goes on from there."
        ) from None


def _report(room: Room, points: list[Point], found: list[dict[str, Any]], images: Images) -> None:
    from geodesic_fast.reproduce import report

    kept = {point.kind: room.kept(point) for point in points if point.seed == points[0].seed}
    print(report.write(room, found, kept, images))


@contextlib.contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Sum in one order: one thread a process, which torchrun multiplies, and cuDNN's fixed algorithms."""
    threads, fixed = torch.get_num_threads(), torch.backends.cudnn.deterministic
    if device.type == "cpu":
        torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.deterministic = fixed


def _need_matplotlib() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(
            "reproduce draws its pictures with matplotlib, which is not installed: run pip install "
            '"geodesic-fast[reproduce]".'
        )
