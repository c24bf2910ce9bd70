"""The peer of the studies: slices in its layout, the way back into the image, and what its training function is given.

A checkout of the size of a page, with the names and files that `peer.py` uses, stands for SSL4MIS, which is not part of this
repository. `test_the_real_checkout_...` needs one, in the environment variable SSL4MIS.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.ndimage import zoom
from torch import nn

from benchmarks import peer, peer_slices
from tests.helpers.raw_data import read_array
from tests.helpers.synthetic import make_dataset

SCRIPT = """
import argparse, json, random
import h5py, numpy, torch
from torch.utils.data import DataLoader
from networks.unet import UNet

parser = argparse.ArgumentParser()
parser.add_argument("--root_path")
parser.add_argument("--max_iterations", type=int)
parser.add_argument("--seed", type=int)
parser.add_argument("--patch_size", type=list)
parser.add_argument("--consistency_rampup", type=float, default=200.0)
args = parser.parse_args()


def net_factory(net_type, in_chns, class_num):
    return UNet(in_chns, class_num).cuda()


def patients_to_slices(dataset, patients):
    return -1


def test_single_volume(image, label, net, classes):
    raise AssertionError("validated")


def train(args, snapshot_path):
    student = net_factory(net_type="unet", in_chns=1, class_num=4)
    teacher = net_factory(net_type="unet", in_chns=1, class_num=4)
    torch.nn.init.constant_(student.threshold, 0.5)
    torch.nn.init.constant_(teacher.threshold, 2)
    case = open(args.root_path + "/val.list").read().strip()
    with h5py.File(args.root_path + "/data/" + case + ".h5") as file:
        shape = file["image"].shape
    seen = dict(vars(args), slices=patients_to_slices("ACDC", 1), shape=shape, drawn=[random.random(), numpy.random.rand()])
    seen["dice"] = numpy.mean(test_single_volume(None, None, student, classes=4))
    seen["workers"] = DataLoader([1], batch_size=1, num_workers=4).num_workers
    json.dump(seen, open(snapshot_path + "/seen.json", "w"))
"""

# bright pixels are class 1; predictions depend on nothing but the intensity, and so does what is expected
UNET = """
import torch


class UNet(torch.nn.Module):
    def __init__(self, in_chns, class_num):
        super().__init__()
        self.threshold = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x):
        bright = 50 * (x - self.threshold)
        return torch.cat([-bright, bright, torch.full_like(x, -1e3)], 1)
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """The stand-in of SSL4MIS; what importing and running it changes in this process is undone."""
    folder = tmp_path / "SSL4MIS"
    (folder / "code/networks").mkdir(parents=True)
    (folder / "code/train_mean_teacher_2D.py").write_text(SCRIPT)
    (folder / "code/networks/unet.py").write_text(UNET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(nn.Module, "cuda", nn.Module.cuda)
    monkeypatch.setattr(torch.Tensor, "cuda", torch.Tensor.cuda)
    yield folder
    for name in list(sys.modules):
        if name.partition(".")[0] in {
            *peer.SCRIPTS.values(),
            "augmentations",
            "dataloaders",
            "networks",
            "utils",
            "val_2D",
        }:
            del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def study(tmp_path, monkeypatch) -> Path:
    """A preprocessed data set with another spacing than its images; returns its folder with the raw ones."""

    def change_plans(plans: dict) -> None:
        plans["configurations"]["2d"]["spacing"] = [1.25, 1.25]
        plans["configurations"]["2d_small"] = {"inherits_from": "2d"}

    make_dataset(tmp_path, configurations=("2d_small",), change_plans=change_plans)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(peer, "DATASETS", {"3": "991"})
    return tmp_path


def words(checkout: Path, *more: str) -> list[str]:
    return ["--code", str(checkout), "--out", str(checkout.parent / "peer"), "--labeled", "3", *more]


@pytest.mark.parametrize("size", [(9, 12), (8, 8), (5, 6), (7, 11)])
def test_a_window_comes_back_to_its_place(size):
    image = np.arange(2 * 3 * size[0] * size[1], dtype=float).reshape(2, 3, *size) + 1
    window = peer_slices.cut_out(image, 8)
    assert window.shape == (2, 3, 8, 8)
    back = peer_slices.put_back(window, size)
    inside = np.zeros(size, bool)
    inside[tuple(slice(max(0, (n - 8) // 2), max(0, (n - 8) // 2) + 8) for n in size)] = True
    assert np.array_equal(back[..., inside], image[..., inside])
    assert (back[0][..., ~inside] == 1).all() and (back[1][..., ~inside] == 0).all()
    assert (window == 0).sum() == 6 * (64 - inside.sum())


def test_labeled_slices_come_first_and_unlabeled_ones_carry_no_label(tmp_path):
    image = np.random.default_rng(0).normal(size=(3, 100, 90)).astype(np.float32)
    label = np.where(image > 1, 2, -1)
    num_labeled = peer_slices.write_slices(
        tmp_path, [("a", image, label), ("b", image[:2], label[:2]), ("c", image, None)]
    )
    names = (tmp_path / "train_slices.list").read_text().splitlines()
    assert num_labeled == 5 and names[:5] == ["a_slice_0", "a_slice_1", "a_slice_2", "b_slice_0", "b_slice_1"]
    assert len(names) == 8
    for name in names:
        with h5py.File(tmp_path / f"data/slices/{name}.h5") as file:
            pixels, classes = file["image"][:], file["label"][:]
        case, _, index = name.split("_")
        volume = image[:2] if case == "b" else image
        expected = (volume[int(index), 2:98] - volume.min()) / (volume.max() - volume.min())
        assert pixels.dtype == np.float32 and np.allclose(pixels[:, 3:93], expected)
        assert classes.dtype == np.uint8 and not classes[:, :3].any()
        assert np.array_equal(classes[:, 3:93], 2 * (volume[int(index), 2:98] > 1) * (case != "c"))


def test_the_training_function_gets_our_slices_steps_and_scaled_ramp_up(checkout, study):
    assert peer.main(words(checkout, "--steps", "3000", "--seed", "5")) == 0
    work = study / "peer/3_5"
    seen = json.loads((work / "seen.json").read_text())
    assert seen["max_iterations"] == 3000 and seen["seed"] == 5 and seen["consistency_rampup"] == 20
    assert seen["slices"] == 3 * 20  # three cases of 20 slices
    assert len((work / "slices/train_slices.list").read_text().splitlines()) == 20 * (3 + 3)
    assert seen["patch_size"] == [96, 96] == seen["shape"] and seen["workers"] == 0 and seen["dice"] == 0
    np.random.seed(5)
    assert seen["drawn"][1] == np.random.rand()


def test_student_and_teacher_are_predicted_on_the_grid_of_the_image(checkout, study, capsys):
    assert peer.main(words(checkout, "--steps", "10")) == 0
    work = study / "peer/3_0"
    (student,) = (work / "predictions").iterdir()
    assert student.name == "case_03.nii.gz"
    # linear, as the probabilities are resampled; the image was resampled before
    image = read_array(study / "nnUNet_raw/Dataset991_Synthetic/imagesTr/case_03_0000.nii.gz")
    predicted = read_array(student)
    assert predicted.shape == image.shape and set(np.unique(predicted)) == {0, 1}
    coarse = np.stack([zoom(zoom(part, 0.8, order=3), 1.25, order=1)[:40, :36] for part in image])
    bright = coarse > (coarse.min() + coarse.max()) / 2
    assert (predicted[:, : bright.shape[1], : bright.shape[2]] == bright).mean() > 0.9
    assert not read_array(work / "predictions_ema" / student.name).any()  # its threshold is above all intensities

    (work / "seen.json").unlink()
    student.unlink()
    assert peer.main(words(checkout, "--steps", "10")) == 0
    assert student.is_file() and not (work / "seen.json").exists()  # predicted again, not trained again
    assert peer.main(words(checkout, "--steps", "11")) == 1
    assert "is of 10 steps, asked are --steps 11" in capsys.readouterr().err


def test_what_is_missing_is_named_with_the_command_that_gets_it(checkout, study, capsys):
    assert peer.main(["--code", str(study), "--out", "peer"]) == 1
    assert (
        "is no checkout of SSL4MIS. Make one: git clone https://github.com/HiLab-git/SSL4MIS" in capsys.readouterr().err
    )
    (checkout / "code/train_mean_teacher_2D.py").write_text("import no_such_package")
    assert peer.main(words(checkout)) == 1
    assert "needs no_such_package, which is not installed. Run `pip install medpy" in capsys.readouterr().err
    assert not (study / "peer").exists()


@pytest.mark.skipif(
    "SSL4MIS" not in os.environ, reason="needs a checkout of SSL4MIS in the environment variable SSL4MIS"
)
@pytest.mark.parametrize("method", peer.SCRIPTS)
def test_the_real_checkout_trains_and_has_what_is_replaced(method, checkout, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    volumes = [(name, rng.normal(size=(14, 96, 96)).astype(np.float32)) for name in "ab"]
    labels = [rng.integers(0, 4, (14, 96, 96)), None]
    cases = [(*volume, label) for volume, label in zip(volumes, labels)]
    code = Path(os.environ["SSL4MIS"]).resolve() / "code"
    monkeypatch.syspath_prepend(str(code))
    weights = peer.train(code, method, tmp_path, cases, steps=2, seed=0)
    assert set(weights) == ({"student", "ema"} if method == "mean_teacher" else {"student"})
    assert all(value.isfinite().all() for state in weights.values() for value in state.values())
