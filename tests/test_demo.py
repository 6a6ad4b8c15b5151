# SPDX-License-Identifier: MIT
"""The main job with tiny settings: what it writes, that it is true, and how it ends."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import directional_stats

from geodesic_fast.__main__ import main
from geodesic_fast._report import write_whole
from geodesic_fast.demo import command, digits, finding, measuring, networks, training

# The demo runs on the plain-torch reference as well, and says so with a warning.
pytestmark = pytest.mark.filterwarnings("ignore:geodesic_fast answers from its slower:RuntimeWarning")

TINY = ["demo", "--width", "12", "--depth", "3", "--epochs", "2", "--l2", "0", "0.005", "--device", "cpu"]
PICTURES = [
    f"{name}{dark}.png"
    for name in ("tracks", "scores", "deviation", "margins", "training")
    for dark in ("", "-dark")
]
CPU = torch.device("cpu")
SETTINGS = training.Settings(
    width=12, depth=3, epochs=2, seed=0, l2=(0.0,), learning_rate=0.05, samples=0, device="cpu"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of one tiny run, into a folder that holds the rest of an interrupted one."""
    path = tmp_path_factory.mktemp("demo") / "new" / "folder"
    path.mkdir(parents=True)
    (path / command.PARTIAL).write_text("{}")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    assert main([*TINY, "--output", str(path)]) == 0
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    return path


@pytest.fixture(scope="module")
def data():
    """Give the digits, and one thread as in the demo: more only wait for each other on layers this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield digits.load(0, CPU)
    torch.set_num_threads(threads)


def without_seconds(value):
    if isinstance(value, dict):
        return {key: without_seconds(item) for key, item in value.items() if key != "seconds"}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


def test_results_folder_is_whole(folder):
    assert {path.name for path in folder.iterdir()} == {"report.html", "results.json", *PICTURES}
    for name in PICTURES:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_results_json_holds_seed_versions_options_and_every_network(folder):
    found = json.loads((folder / "results.json").read_text())
    assert found["complete"]
    assert found["seed"] == 0
    assert found["options"]["depth"] == 3
    assert found["versions"]["torch"] == torch.__version__
    assert [(n["kind"], n["l2"]) for n in found["networks"]] == [
        (kind, l2) for kind in ("residual", "plain") for l2 in (0.0, 0.005)
    ]
    for network in found["networks"]:
        assert [epoch["epoch"] for epoch in network["history"]] == [0, 1, 2]
        assert network["history"][-1]["lss"] == network["after"]["lss"]
        assert 0 <= network["after"]["ots"]["score"] <= 1 <= network["after"]["lss"]["mean"]
        assert network["after"]["ots"]["samples"] == network["after"]["lss"]["samples"] == 450


def test_report_is_one_file_that_tells_the_finding_and_every_row(folder):
    page = (folder / "report.html").read_text()
    found = json.loads((folder / "results.json").read_text())
    assert not re.search(r"(src|srcset|href)=\"(?!data:image/png;base64,)", page)
    assert page.count("data:image/png;base64,") == len(PICTURES)
    assert page.count("<tr>") == 1 + len(found["networks"])
    for key in ("shows", "conclusion"):
        assert found["finding"][key] in page.replace("&#x27;", "'")
    assert finding.RULE in page.replace("&#x27;", "'")
    for network in found["networks"]:
        assert "of 450 test samples" in page
        assert "steps LSS is 1 for straight lines, sqrt(n) = " in page
        assert "OTS is of m = 450 samples in d = " in page
        assert f"<td>{network['after']['lss']['mean']:.2f} ± " in page


def test_same_seed_same_numbers(folder, tmp_path):
    assert main([*TINY, "--output", str(tmp_path)]) == 0
    first, again = (json.loads((path / "results.json").read_text()) for path in (folder, tmp_path))
    assert without_seconds(again) == without_seconds(first)


def test_another_seed_other_weights_split_and_batches(data):
    first, other = (
        training.run_one("plain", 0.0, dataclasses.replace(SETTINGS, seed=seed), data, lambda _: None)
        for seed in (0, 7)
    )
    assert first.before != other.before
    assert first.history[1].loss != other.history[1].loss
    assert not torch.equal(digits.load(7, CPU).test_images, data.test_images)
    same_weights = (networks.build("plain", 12, 3, 0, CPU) for _ in range(2))
    losses = [
        next(training.train(network, 0.0, dataclasses.replace(SETTINGS, seed=seed), data))[0].loss
        for network, seed in zip(same_weights, (0, 7), strict=True)
    ]
    assert losses[0] != losses[1], "other batches"


@pytest.mark.parametrize("kind", networks.KINDS)
def test_scores_match_scipy(kind, data):
    settings = dataclasses.replace(SETTINGS, samples=200)
    result = training.run_one(kind, 5e-4, settings, data, lambda _: None)
    states = result.tracks_after.double().numpy()  # (n+1, m, d)
    scores = 1 / directional_stats(np.diff(states, axis=0), axis=0).mean_resultant_length
    assert result.after.lss.mean == pytest.approx(scores.mean(), rel=1e-5)
    assert result.after.lss.std == pytest.approx(scores.std(ddof=1), rel=1e-3)
    chosen = training.choose_samples(450, settings)
    cost = cdist(states[0, chosen], states[-1, chosen], "sqeuclidean")
    rows, columns = linear_sum_assignment(cost)
    assert result.after.ots.samples == len(set(chosen.tolist())) == 200
    assert result.after.ots.score == np.mean(rows == columns)
    assert result.after.ots.efficiency == pytest.approx(cost[rows, columns].sum() / cost.trace(), rel=1e-6)
    between = np.min([cdist(layer, layer) for layer in states], axis=0)
    other = data.test_classes.numpy()[:, None] != data.test_classes.numpy()[None, :]
    margins = np.where(other, between, np.inf).min(axis=1) / np.sqrt((cdist(*states[[0, 0]]) ** 2).mean())
    assert result.after.margin.least == pytest.approx(margins.min(), rel=1e-5)
    assert result.after.margin.median == pytest.approx(np.sort(margins)[(450 - 1) // 2], rel=1e-5)
    assert result.tracks_before.shape == result.tracks_after.shape == (4, 450, 12)


def test_kinds_differ_only_in_the_added_input(data):
    residual, plain = (networks.build(kind, 12, 3, 5, CPU) for kind in networks.KINDS)
    for one, other in zip(residual.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    x = torch.randn(8, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(residual.blocks[0].eval()(x), x + plain.blocks[0].eval()(x))
    states = measuring.states_of(plain, data.test_images)
    assert len(states) == 4
    assert torch.equal(states[0], plain.embedding(data.test_images))


def test_a_short_training_learns(data):
    settings = dataclasses.replace(SETTINGS, width=32, epochs=12)
    result = training.run_one("residual", 5e-4, settings, data, lambda _: None)
    assert result.before.test_accuracy < 0.4
    assert result.after.test_accuracy > 0.93


def test_split_keeps_every_class_and_no_image_is_on_both_sides(data):
    assert len(data.train_images) == 1347
    assert len(data.test_images) == 450
    assert set(data.test_classes.tolist()) == set(range(10))
    train = {row.numpy().tobytes() for row in data.train_images}
    assert not any(row.numpy().tobytes() in train for row in data.test_images)


def test_a_diverged_training_is_reported_and_not_scored(tmp_path):
    options = [*TINY, "--epochs", "1", "--l2", "0", "--learning-rate", "1e30"]
    assert main([*options, "--output", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["finding"]["verdict"] == "not tested"
    assert found["networks"][0]["after"]["ots"] is None
    assert found["networks"][0]["after"]["lss"]["mean"] is None
    assert "<td>undefined</td>" in (tmp_path / "report.html").read_text()


def test_one_layer_no_epoch_width_one(tmp_path):
    options = ["demo", "--width", "1", "--depth", "1", "--epochs", "0", "--seed", str(2**32 - 1)]
    assert main([*options, "--l2", "0", "0", "--samples", "1", "--output", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert len(found["networks"]) == 2, "a strength named twice is trained once"
    assert found["finding"]["verdict"] == "not tested"
    assert found["networks"][0]["after"]["ots"]["score"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--depth", "0"], "--depth: expected a whole number from 1 to 1000, got 0"),
        (["--width", "wide"], "--width: expected a whole number from 1 to 4096, got 'wide'"),
        (["--epochs", "-1"], "--epochs: expected a whole number >= 0, got -1"),
        (["--seed", str(2**32)], "--seed: expected a whole number from 0 to 4294967295"),
        (["--l2", "nan"], "--l2: expected a finite number >= 0, got nan"),
        (["--learning-rate", "0"], "--learning-rate: expected a finite number > 0, got 0"),
        (["--device", "tpu"], "--device"),
        (["--dpeth", "3"], "unrecognized arguments: --dpeth 3"),
        (["--output", __file__], "--output must be a folder that can be written"),
    ],
)
def test_a_wrong_call_is_one_sentence(options, words, capsys):
    try:
        code = main(["demo", *options])
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr().err
    assert code == 2
    assert said.count("\n") == 1
    assert words in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_one_sentence(capsys, tmp_path):
    assert main(["demo", "--device", "cuda", "--output", str(tmp_path / "no")]) == 2
    assert "use --device cpu" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_demo_runs_on_cuda(tmp_path):
    assert main([*TINY[:-1], "cuda", "--output", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "results.json").read_text())["options"]["device"] == "cuda"


@pytest.mark.parametrize("package", ["matplotlib", "sklearn"])
def test_a_missing_package_names_the_remedy(package, monkeypatch, capsys, tmp_path):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert main([*TINY, "--output", str(tmp_path)]) == 2
    assert 'pip install "geodesic-fast[demo]"' in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_saves_what_is_complete_and_leaves_the_old_report_alone(tmp_path):
    (tmp_path / "report.html").write_text("the report of an earlier run")
    options = ["--width", "8", "--depth", "2", "--epochs", "40", "--output", str(tmp_path)]
    strengths = [f"0.{number}" for number in range(1, 100)]
    call = [sys.executable, "-m", "geodesic_fast", "demo", *options, "--l2", "0", *strengths]
    job = subprocess.Popen(call, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    said = b""
    while b"L2 0." not in said:  # the second network: the first is complete
        piece = job.stderr.read1()
        assert piece, said
        said += piece
    job.send_signal(signal.SIGINT)
    out, err = job.communicate(timeout=60)
    assert job.returncode == 130
    assert out == b""
    assert b"Traceback" not in said + err
    assert b"ended by Ctrl-C, no report was written" in err
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", command.PARTIAL}
    assert (tmp_path / "report.html").read_text() == "the report of an earlier run"
    saved = json.loads((tmp_path / command.PARTIAL).read_text())
    assert not saved["complete"]
    assert 1 <= len(saved["networks"]) < 200
    assert "finding" not in saved


def test_ctrl_c_before_anything_is_complete(monkeypatch, capsys, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(digits, "load", interrupted)
    assert main([*TINY, "--output", str(tmp_path)]) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_file_as_it_was(monkeypatch, tmp_path):
    target = tmp_path / "report.html"
    write_whole(target, b"old")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(target, b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
