# SPDX-License-Identifier: MIT
"""Scaling over processes: exact transport scores, the cost of measuring a DDP training step, `lss`.

torchrun --nproc-per-node 8 benchmarks/cluster/scaling.py        one node, a process for each GPU or core
sbatch benchmarks/cluster/scaling.sbatch                         several nodes under SLURM
srun --ntasks-per-node 8 python benchmarks/cluster/scaling.py    the same without a launcher on each

Answers are checked before anything is timed. Times of one line are of one run, sizes in turn, each on the
first processes of all. Rank 0 writes JSON with the machines, and draws the speed-up.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import geodesic_fast
from geodesic_fast import lss, ots, watch

sys.path.insert(0, str(Path(__file__).parent.parent))
from ots_problems import make

FAMILY = "half scrambled"
STAGES = ("identity", "potentials", "pricing")  # of `ots`, which each process does for its own rows


def main() -> None:
    """Measure what is asked for and write it down."""
    args = _arguments()
    with _joined() as device:
        torch.set_num_threads(args.threads or max(1, _cores() // _processes_here()))
        size = dist.get_world_size()
        sizes = sorted({1 << k for k in range(size.bit_length()) if 1 << k <= size} | {size})
        groups = {count: dist.new_group(list(range(count))) for count in sizes}
        _check(groups, device)
        strong = [_score_line(groups, device, args.points, args.features, args) for _ in range(args.rounds)]
        weak = [
            _score_line(
                {count: group},
                device,
                round(args.points * math.sqrt(count / size) / 16) * 16,
                args.features,
                args,
            )
            for count, group in groups.items()
        ]
        found = {
            "machines": _machines(device),
            "threads": torch.get_num_threads(),
            "versions": {"torch": torch.__version__, "geodesic_fast": geodesic_fast.__version__},
            "family": FAMILY,
            "strong": _medians(strong),
            "weak": [row for line in weak for row in line],
            "training": _training(device, args.rounds),
            "lss": _lss(groups, device, args.rounds),
        }
        if dist.get_rank() == 0:
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / "scaling.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(_table(found))
            _draw(found, args.out / "scaling.png")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--points", type=int, default=20_000, help="points of all processes")
    parser.add_argument("--features", type=int, default=256, help="features")
    parser.add_argument("--method", default="auto", help="as in ots")
    parser.add_argument("--rounds", type=int, default=3, help="runs of which medians are taken")
    parser.add_argument(
        "--threads", type=int, default=0, help="of a process; default: its share of the cores"
    )
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "build/cluster"))
    return parser.parse_args()


@contextlib.contextmanager
def _joined() -> Iterator[torch.device]:
    """Join the group that torchrun or SLURM started, NCCL where there are GPUs, gloo elsewhere."""
    gpu = torch.cuda.is_available()
    if "RANK" not in os.environ and "SLURM_PROCID" in os.environ:
        os.environ.update(_said_by_slurm(os.environ))
    if "RANK" not in os.environ:
        raise SystemExit("start this with torchrun or srun: see the head of the file.")
    local = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local % torch.cuda.device_count()) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def _said_by_slurm(said: Mapping[str, str]) -> dict[str, str]:
    """Return what torch asks for of a process that srun started without torchrun."""
    nodes = ["scontrol", "show", "hostnames", said["SLURM_STEP_NODELIST"]]
    return {
        "RANK": said["SLURM_PROCID"],
        "WORLD_SIZE": said["SLURM_NTASKS"],
        "LOCAL_RANK": said["SLURM_LOCALID"],
        "MASTER_ADDR": subprocess.run(nodes, capture_output=True, text=True, check=True).stdout.split()[0],
        "MASTER_PORT": str(20_000 + int(said["SLURM_JOB_ID"]) % 10_000),
    }


def _problem(m: int, d: int, group: dist.ProcessGroup, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return this process's share of the points, which are the same for any number of processes."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    share = slice(rank * m // size, (rank + 1) * m // size)
    x, y = (torch.from_numpy(points[share]) for points in make(FAMILY, m, d))
    return x.to(device), y.to(device)


def _check(groups: dict[int, dist.ProcessGroup], device: torch.device) -> None:
    """Compare the answers of all numbers of processes with each other."""
    found = [
        ots(*_problem(2000, 32, group, device), method="tiles", group=group)
        for group in groups.values()
        if dist.get_rank(group) >= 0
    ]
    assert all(each.certified for each in found)
    assert len({(each.score, each.optimal_cost, each.gap) for each in found}) == 1
    assert all(torch.equal(each.permutation, found[0].permutation) for each in found)


def _score_line(
    groups: dict[int, dist.ProcessGroup], device: torch.device, m: int, d: int, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Time one score on each number of processes in turn."""
    rows = []
    for count, group in groups.items():
        row = None
        if dist.get_rank(group) >= 0:
            x, y = _problem(m, d, group, device)
            _reset_peak(device)
            started = time.perf_counter()
            result = ots(x, y, method=args.method, group=group)
            seconds = time.perf_counter() - started
            assert result.certified
            row = {
                "processes": count, "m": m, "d": d, "seconds": seconds, "score": result.score,
                "gap": result.gap, "method": result.method, "stages": result.record["seconds"],
                "peak_bytes": _largest(_peak(device), group), "passes": result.record["passes"],
            }  # fmt: skip
        dist.barrier()
        rows.append(row)
    return rows if dist.get_rank() == 0 else []


def _medians(lines: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return each row of the line with its median seconds, and what a model fitted to one process gives."""
    rows = []
    for same in zip(*lines, strict=True):
        middle = sorted(same, key=lambda row: row["seconds"])[len(same) // 2]
        rows.append({**middle, "all_seconds": [row["seconds"] for row in same]})
    for row in rows:
        alone = rows[0]["stages"]
        passes = sum(alone[stage] for stage in STAGES)
        row["speed_up"] = rows[0]["seconds"] / row["seconds"]
        row["model_seconds"] = rows[0]["seconds"] - passes + passes / row["processes"]
    return rows


def _training(device: torch.device, rounds: int, width: int = 512, depth: int = 8) -> dict[str, float]:
    """Return the seconds of a DDP training step without and with `watch`, medians in turn."""
    torch.manual_seed(0)
    blocks = (nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth))
    net = nn.parallel.DistributedDataParallel(nn.Sequential(*blocks).to(device))
    optimizer, x = torch.optim.SGD(net.parameters(), lr=1e-3), torch.randn(512, width, device=device)

    def step(watched: bool) -> None:
        with watch(net, "*") if watched else contextlib.nullcontext():
            loss = net(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    ways: dict[str, Callable[[], None]] = {"step": lambda: step(False), "watched_step": lambda: step(True)}
    return {name: statistics.median(times) for name, times in _in_turn(ways, 5 * rounds, device).items()}


def _lss(groups: dict[int, dist.ProcessGroup], device: torch.device, rounds: int) -> list[dict[str, float]]:
    """Return the bytes a second that all processes together read in `lss`."""
    tracks, rows = torch.randn(17, 2048, 512, device=device), []
    for count, group in groups.items():
        if dist.get_rank(group) >= 0:
            dist.barrier(group)
            [times] = _in_turn({"lss": lambda: lss(tracks)}, 5 * rounds, device).values()
            seconds = _largest(statistics.median(times), group)
            rows.append({"processes": count, "bytes_a_second": count * tracks.nbytes / seconds})
        dist.barrier()
    return rows


def _in_turn(ways: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):  # the first warms up
        for name, run in ways.items():
            _wait(device)
            started = time.perf_counter()
            run()
            _wait(device)
            if turn:
                times[name].append(time.perf_counter() - started)
    return times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _largest(value: float, group: dist.ProcessGroup) -> float:
    found = torch.tensor([float(value)], dtype=torch.float64)
    dist.all_reduce(found, dist.ReduceOp.MAX, group=group)
    return found.item()


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak(device: torch.device) -> float:
    """Return the most memory held since the last reset, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError, IndexError):
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _machines(device: torch.device) -> list[str]:
    """Return what each process runs on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    every: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(every, f"{socket.gethostname()}: {name}, load {os.getloadavg()[0]:.1f}")
    return every


def _processor() -> str:
    with contextlib.suppress(OSError, IndexError):
        return (
            Path("/proc/cpuinfo")
            .read_text(encoding="utf-8")
            .split("model name")[1]
            .split(":")[1]
            .split("\n")[0]
            .strip()
        )
    return platform.processor()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processes_here() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE") or 1)


def _table(found: dict[str, Any]) -> str:
    lines = [f"{'processes':>9} {'m':>9} {'seconds':>9} {'model':>9} {'speed-up':>9} {'peak MiB':>9}"]
    for row in [*found["strong"], *found["weak"]]:
        model, up = row.get("model_seconds", math.nan), row.get("speed_up", math.nan)
        lines.append(
            f"{row['processes']:9} {row['m']:9} {row['seconds']:9.2f} {model:9.2f} {up:9.2f} "
            f"{row['peak_bytes'] / 2**20:9.0f}"
        )
    training = found["training"]
    lines.append(f"training step: watched / plain = {training['watched_step'] / training['step']:.2f}")
    lines += [f"lss on {row['processes']}: {row['bytes_a_second'] / 1e9:.1f} GB/s" for row in found["lss"]]
    return "\n".join(lines)


def _draw(found: dict[str, Any], path: Path) -> None:
    """Draw the speed-up against processes, the ideal and the model."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    rows = found["strong"]
    counts, first = [row["processes"] for row in rows], rows[0]
    figure, ax = plt.subplots(figsize=(5, 4), layout="constrained")
    ax.plot(counts, counts, color="0.6", linestyle=":", label="ideal")
    model = [first["model_seconds"] / row["model_seconds"] for row in rows]
    ax.plot(counts, model, color="0.4", linestyle="--", label="model of one process's stages")
    ax.plot(counts, [row["speed_up"] for row in rows], "o-", label="measured")
    ax.set(xlabel="processes", ylabel="speed-up", xticks=counts, title=f"ots, {first['m']:,} x {first['d']}")
    ax.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
