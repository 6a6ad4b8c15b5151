# SPDX-License-Identifier: MIT
"""`python -m geodesic_fast demo`: options, the run, Ctrl-C, and the results folder."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys
import time
from collections.abc import Iterator
from pathlib import Path

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
from geodesic_fast._report import write_whole
from geodesic_fast.demo import digits, finding, networks, results, training
from geodesic_fast.demo.digits import Digits
from geodesic_fast.demo.training import Epoch, Outcome, Settings

HELP = "Train residual and plain networks on handwritten digits; report LSS, OTS and W2 efficiency."
PARTIAL = "results.partial.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `demo`."""
    add = parser.add_argument
    add("--width", type=whole_number(1, 4096), default=64, help="features of every layer")
    add("--depth", type=whole_number(1, 1000), default=12, help="layers of equal width, the steps of a track")
    add("--epochs", type=whole_number(0), default=100, help="passes over the training images, per network")
    add("--seed", type=whole_number(0, 2**32 - 1), default=0, help="split, initial weights, batches")
    add("--output", type=Path, default=Path("results/demo"), help="folder for the report and the numbers")
    add("--device", choices=DEVICES, default="auto", help="auto: cuda if there is a GPU")
    add("--samples", type=whole_number(0), default=0, help="test samples OTS is computed on, 0: all")
    add("--l2", type=real_number(positive=False), nargs="+", default=[0.0, 5e-4, 5e-3], metavar="STRENGTH",
        help="strengths of L2 regularisation, each the weight decay of SGD")  # fmt: skip
    add("--learning-rate", type=real_number(positive=True), default=0.05, help="of SGD, at the start")


def run(args: argparse.Namespace) -> None:
    """Train, measure, and write the results folder; raise KeyboardInterrupt with a sentence on Ctrl-C."""
    started = time.perf_counter()
    settings = Settings(
        width=args.width,
        depth=args.depth,
        epochs=args.epochs,
        seed=args.seed,
        l2=tuple(dict.fromkeys(args.l2)),
        learning_rate=args.learning_rate,
        samples=args.samples,
        device=choose_device(args.device),
    )
    _need_matplotlib()
    need_folder(args.output)
    outcomes: list[Outcome] = []
    try:
        with _one_thread():
            data = digits.load(settings.seed, torch.device(settings.device))
            for outcome in _train_all(settings, data):
                outcomes.append(outcome)
        _write_folder(args.output, settings, outcomes, data, started)
    except KeyboardInterrupt:
        sentence = _save_partial(args.output, settings, outcomes, time.perf_counter() - started)
        raise KeyboardInterrupt(sentence) from None
    print(results.as_text(results.table(outcomes)))
    judged = finding.judge(outcomes)
    print(f"\n{results.to_compare_with(outcomes)}\n{judged.shows}\n{judged.conclusion}")
    print(f"\nReport: {(args.output / 'report.html').resolve()}")


def _train_all(settings: Settings, data: Digits) -> Iterator[Outcome]:
    total = len(networks.KINDS) * len(settings.l2) * settings.epochs
    with tqdm(total=total, unit="epoch", file=sys.stderr, mininterval=0.5, dynamic_ncols=True) as bar:

        def show(epoch: Epoch) -> None:
            bar.set_postfix_str(f"test {epoch.test_accuracy:.1%}, LSS {epoch.lss.mean:.2f}", refresh=False)
            bar.update()

        for kind in networks.KINDS:
            for l2 in settings.l2:
                bar.set_description_str(f"{kind}, L2 {l2:g}", refresh=False)
                yield training.run_one(kind, l2, settings, data, show)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Layers this small run fastest on one thread, and then the sums have one order: repeatable."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _write_folder(
    folder: Path, settings: Settings, outcomes: list[Outcome], data: Digits, started: float
) -> None:
    from geodesic_fast._pictures import THEMES
    from geodesic_fast.demo import pictures, report

    drawn = {theme.name: pictures.draw_all(outcomes, data.test_classes, theme) for theme in THEMES}
    seconds = time.perf_counter() - started
    page = report.as_html(settings, outcomes, finding.judge(outcomes), drawn, seconds)
    files = {f"{name}.png": png for name, png in drawn["light"].items()}
    files |= {f"{name}-dark.png": png for name, png in drawn["dark"].items()}
    files["results.json"] = results.as_json(settings, outcomes, seconds, complete=True).encode()
    for name, content in files.items():
        write_whole(folder / name, content)
    (folder / PARTIAL).unlink(missing_ok=True)
    write_whole(folder / "report.html", page.encode())


def _save_partial(folder: Path, settings: Settings, outcomes: list[Outcome], seconds: float) -> str:
    total = len(networks.KINDS) * len(settings.l2)
    if not outcomes:
        return f"ended by Ctrl-C before the first of {total} networks was complete, nothing was written."
    write_whole(folder / PARTIAL, results.as_json(settings, outcomes, seconds, complete=False).encode())
    return (
        f"ended by Ctrl-C, no report was written; {len(outcomes)} of {total} networks were complete and are "
        f"saved in {folder / PARTIAL}."
    )


def _need_matplotlib() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(
            "the demo draws its pictures with matplotlib, which is not installed: run pip install "
            '"geodesic-fast[demo]".'
        )
