# SPDX-License-Identifier: MIT
"""One problem of two hosts: network namespaces with a wire between them, and torchrun on each."""

import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from geodesic_fast import nearest_track, ots
from geodesic_fast._processes import Processes

pytestmark = pytest.mark.engine
M, PROCESSES = 1500, 2  # of each host
LIMIT = 90  # seconds
PATIENCE = 8  # seconds that torch waits for a process that is silent

# Hosts a and b in namespaces of this user, where that is permitted; each has its own name and one wire.
HOSTS = """
set -e
mount -t tmpfs none /run
printf '127.0.0.1 localhost\n10.77.0.1 host-a\n10.77.0.2 host-b\n' > /run/hosts
mount --bind /run/hosts /etc/hosts
for host in a b; do ip netns add $host; ip -n $host link set lo up; done
ip link add wire netns a type veth peer name wire netns b
ip -n a addr add 10.77.0.1/24 dev wire
ip -n b addr add 10.77.0.2/24 dev wire
for host in a b; do ip -n $host link set wire up; done
on() {
  ip netns exec "$1" unshare --uts sh -c 'hostname "host-$0"; exec "$@"' "$@"
}
"""
LAUNCH = """
launch() {
  on "$1" env GLOO_SOCKET_IFNAME=wire OMP_NUM_THREADS=1 "$PYTHON" -m torch.distributed.run \\
    --nnodes 2 --nproc-per-node $PROCESSES --local-addr "$2" \\
    --rdzv-backend c10d --rdzv-endpoint 10.77.0.1:29500 --rdzv-id test "$PROGRAM" "$CASE" "$FOLDER"
}
launch a 10.77.0.1 &
launch b 10.77.0.2 &
for rank in $AWAITED; do  # torchrun itself waits for minutes where another has failed
  until [ -s "$FOLDER/$rank" ]; do sleep 0.1; done
done
"""  # the end of the shell is that of its namespace and of all that runs there


def in_namespaces(script, **environment):
    """Run a shell script on the two hosts."""
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        "--net",
        "--mount",
        "--pid",
        "--kill-child",
        "sh",
        "-c",
    ]
    return subprocess.run(
        [*command, HOSTS + script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


@pytest.fixture(scope="module")
def hosts():
    missing = [tool for tool in ("ip", "unshare") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"network namespaces need {missing[0]}")
    tried = in_namespaces("on a true; on b true")
    if tried.returncode:
        pytest.skip(f"network namespaces are not permitted here: {tried.stderr.strip()[-200:]}")


def run(case, folder, awaited):
    """Run this file on all processes of both hosts; return what some of them wrote."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    ended = in_namespaces(
        LAUNCH,
        PYTHON=sys.executable,
        PROGRAM=__file__,
        CASE=case,
        FOLDER=str(folder),
        PROCESSES=str(PROCESSES),
        AWAITED=" ".join(map(str, awaited)),
        PYTHONPATH=path,
    )
    assert ended.returncode == 0, ended.stderr[:3000]
    return [(folder / str(rank)).read_text(encoding="utf-8") for rank in awaited]


def test_the_answer_is_that_of_one_process(hosts, tmp_path):
    found = run("well", tmp_path, range(2 * PROCESSES))
    assert found == ["host-a: equal"] * PROCESSES + ["host-b: equal"] * PROCESSES


@pytest.mark.parametrize("case", ["killed", "cut"])
def test_a_host_that_is_lost_ends_the_other(case, hosts, tmp_path):
    for words in run(case, tmp_path, range(PROCESSES)):
        assert words.startswith("host-a: RuntimeError")
        assert any(reason in words.lower() for reason in ("closed", "reset", "timed out", "timeout"))


def shard(points, rank):
    """Return a rank's share of points, uneven, the first one's empty."""
    cuts = [0, 0, 100, len(points) // 2, len(points)]
    return points[cuts[rank] : cuts[rank + 1]]


class Lost:
    """The exchanges of a process that is lost before one of them."""

    def __init__(self, before, how):
        self.left, self.how, self.whole = before, how, Processes._words

    def words(self, own, *rest):
        self.left -= 1
        if self.left == 0 and self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.left == 0:
            subprocess.run(["ip", "link", "set", "wire", "down"], check=True)
        return self.whole(own, *rest)


def main(case, folder):
    dist.init_process_group("gloo", timeout=timedelta(seconds=PATIENCE))
    torch.set_num_threads(1)
    rank, group = dist.get_rank(), dist.group.WORLD
    host = os.uname().nodename
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(M, 20, generator=generator)
    y = 0.3 * x + torch.randn(M, 20, generator=generator)
    if rank == 2 * PROCESSES - 1 and case != "well":
        lost = Lost(20, case)
        Processes._words = lambda *args: lost.words(*args)
    started = time.monotonic()
    try:
        found = ots(shard(x, rank), shard(y, rank), group=group)
        nearest = nearest_track(torch.stack([shard(x, rank), shard(y, rank)]), group=group)
        alone, own = ots(x, y), (shard(of, rank) for of in nearest_track(torch.stack([x, y])))
        same = found == alone and all(torch.equal(*pair) for pair in zip(nearest, own, strict=True))
        said = "equal" if same and alone.certified else "different"
    except RuntimeError as error:
        said = f"RuntimeError after {time.monotonic() - started:.0f} s: {error}"
    Path(folder, f"{rank}").write_text(f"{host}: {said}", encoding="utf-8")
    if said == "equal":
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
