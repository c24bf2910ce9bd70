"""Every command block of README and docs runs, as it stands, on small data."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nnunet_ssl.data.phantoms import write_la_phantoms
from nnunet_ssl.discovery import SCANNED_FOLDER
from tests.helpers import acdc_release
from tests.helpers.pages import PAGES, blocks, commands_in, execute, run_block, shortened, small_and_here
from tests.helpers.paths import REPOSITORY
from tests.helpers.raw_data import write_image

SHAPE = (10, 32, 32)  # z, y, x

# They prepare, measure or release, for hours or with the network: tests/benchmarks rehearses them, .ci/run runs the others.
FOR_DEVELOPERS = {
    "CONTRIBUTING.md",
    "docs/gpu.md",
    "docs/performance.md",
    "docs/studies/README.md",
    "docs/studies/history/first_results.md",
    "docs/studies/history/quick_study.md",
    "docs/studies/history/weak_study.md",
    "tests/golden/README.md",
}


def case(seed: int, codes: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels 1 to `codes`: boxes side by side, brighter with the code."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.uint8)
    width = 24 // codes
    for code in range(1, codes + 1):
        start = 4 + width * (code - 1)
        labels[2:8, 6 + seed % 3 : 24 + seed % 4, start : start + width] = code
    return (40 * labels + rng.normal(0, 10, SHAPE)).astype(np.float32), labels


def write_dataset(
    root: Path, name: str, labels: list[str], labeled: int, unlabeled: int = 0, test: int = 2, channel: str = "MR"
) -> Path:
    folder = root / "nnUNet_raw" / name
    places = (("imagesTr", "case", labeled), ("imagesUn", "free", unlabeled), ("imagesTs", "test", test))
    for offset, (place, prefix, number) in enumerate(places):
        for i in range(number):
            image, mask = case(100 * offset + i, len(labels))  # no image occurs twice
            write_image(image, folder / place / f"{prefix}_{i:03d}_0000.nii.gz")
            if place != "imagesUn":
                write_image(mask, folder / place.replace("images", "labels") / f"{prefix}_{i:03d}.nii.gz")
    content = {
        "channel_names": {"0": channel},
        "labels": {"background": 0, **{label: i for i, label in enumerate(labels, 1)}},
        "numTraining": labeled,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


# ------------------------------------------------------------------------------------ what a page finds before its blocks


def liver(root: Path) -> None:
    write_dataset(root, "Dataset101_Liver", ["liver", "tumor"], 5, 3, channel="CT")


def liver_of_the_page(root: Path) -> None:
    """With the dataset.json of the page, but for the number of cases."""
    liver(root)
    (text,) = blocks(REPOSITORY / "docs" / "own_data.md", "json")
    content = json.loads(text) | {"numTraining": 5}
    (root / "nnUNet_raw" / "Dataset101_Liver" / "dataset.json").write_text(json.dumps(content))


def left_atrium(root: Path) -> None:
    write_la_phantoms(root / "2018_LA", 10, 2, shape=(16, 16, 16))


def ventricles(root: Path) -> None:
    """Trained in five folds by nnU-Net, but for fold 0, which the page trains; and label maps of another tool."""
    folder = write_dataset(root, "Dataset101_LA", ["ventricle"], 5, 3)
    before(root, ["nnunet_ssl plan_and_preprocess -d 101 -c 3d_fullres"])
    before(root, [f"nnUNetv2_train 101 3d_fullres {fold}" for fold in (1, 2, 3, 4)])
    for image in (folder / "imagesUn").iterdir():
        write_image(case(0, 1)[1], root / "other_tool" / image.name.replace("_0000", ""))


def method_of_ones_own(root: Path) -> None:
    """The first example of the page lies where its block looks for it."""
    write_dataset(root, "Dataset101_LA", ["ventricle"], 5, 3)
    before(root, ["nnunet_ssl plan_and_preprocess -d 101 -c 3d_fullres"])
    (root / "my_trainers").mkdir()
    source, *_ = blocks(REPOSITORY / "docs" / "add_a_method.md", "python")
    (root / "my_trainers" / "weak_strong.py").write_text(source)
    os.environ["nnUNet_extTrainer"] = os.pathsep.join([str(root / "my_trainers"), str(SCANNED_FOLDER)])


def scribbles(root: Path) -> None:
    acdc_release.write_patients(root, 1, 2, 21, 22, 41, 42, 61, 62, 81, 82)


def few_scribbles(root: Path) -> None:
    acdc_release.write_patients(root, *range(1, 36), 71, 81)


def ventricles_and_myocardium(root: Path) -> None:
    write_dataset(root, "Dataset027_ACDC", ["RV", "MLV", "LVC"], 5)


def and_left_atrium(root: Path) -> None:
    ventricles_and_myocardium(root)
    write_dataset(root, "Dataset101_LA", ["LA"], 5)


def weakened(root: Path) -> None:
    ventricles_and_myocardium(root)
    before(root, ["nnunet_ssl weaken -d 27 -o 127 --kind scribble"])


def trained_on_scribbles(root: Path) -> None:
    weakened(root)
    before(root, ["nnunet_ssl plan_and_preprocess -d 127 -c 2d"])
    for trainer in ("nnUNetTrainer", "nnUNetTrainerScribbleEntropyMin"):
        before(root, [f"nnUNetv2_train 127 2d {fold} -tr {trainer} --npz" for fold in range(5)])


def two_sources(root: Path) -> None:
    write_dataset(root, "Dataset009_Spleen", ["spleen"], 5)
    write_dataset(root, "Dataset017_Organs", ["left_kidney", "right_kidney", "aorta", "spleen"], 5)


def before(root: Path, commands: list[str]) -> None:
    with small_and_here(root):
        for command in commands:
            execute(shortened(command.split()), root)


# Blocks of one journey run one after another in one folder: (page, numbers of its blocks; None: all). Blocks of a page that make
# the same data set are journeys of their own.
JOURNEYS: dict[str, tuple[Callable[[Path], None], list[tuple[str, list[int] | None]]]] = {
    "readme": (liver, [("README.md", None)]),
    "own data": (
        liver_of_the_page,
        [
            ("docs/own_data.md", None),
            ("docs/choose.md", None),
            ("docs/existing_dataset.md", None),
            ("docs/cluster.md", None),
        ],
    ),
    "left atrium": (left_atrium, [("docs/data_format.md", None), ("docs/methods.md", None)]),
    "rounds": (ventricles, [("docs/pseudo_labels.md", None)]),
    "scribbles": (scribbles, [("docs/weak_labels.md", [0, 1, 3])]),
    "few scribbles": (few_scribbles, [("docs/weak_labels.md", [2])]),
    "weaken": (ventricles_and_myocardium, [("docs/weak_labels.md", [4, 5, 6])]),
    **{f"weaken {number}": (and_left_atrium, [("docs/weak_labels.md", [number])]) for number in (7, 8, 9, 10, 11)},
    "partial labels": (two_sources, [("docs/partial_labels.md", None)]),
    "a method": (method_of_ones_own, [("docs/add_a_method.md", None)]),
    "nnU-Net's tools": (trained_on_scribbles, [("docs/nnunet_tools.md", None)]),
}


def test_every_block_is_in_a_journey():
    walked = {}
    for _, legs in JOURNEYS.values():
        for page, numbers in legs:
            found = range(len(blocks(REPOSITORY / page, "bash")))
            walked[page] = walked.get(page, []) + list(found if numbers is None else numbers)
    names = {str(page.relative_to(REPOSITORY)): page for page in PAGES}
    with_blocks = {name: list(range(len(blocks(page, "bash")))) for name, page in names.items() if blocks(page, "bash")}
    assert {name: sorted(numbers) for name, numbers in walked.items()} == {
        name: numbers for name, numbers in with_blocks.items() if name not in FOR_DEVELOPERS
    }


@pytest.mark.slow
@pytest.mark.skipif("NNUNET_SSL_PAGES" not in os.environ, reason="minutes for each page: set NNUNET_SSL_PAGES=1")
@pytest.mark.parametrize("journey", JOURNEYS)
def test_the_blocks_of_a_page_run_as_they_stand(journey, tmp_path, monkeypatch):
    monkeypatch.setattr(acdc_release, "SHAPE", (11, 32, 32))  # large enough for nnU-Net's planning
    world, legs = JOURNEYS[journey]
    for kind in ("raw", "preprocessed", "results"):
        (tmp_path / f"nnUNet_{kind}").mkdir()
    world(tmp_path)
    for page, numbers in legs:
        for number, block in enumerate(blocks(REPOSITORY / page, "bash")):
            if numbers is None or number in numbers:
                ran = run_block(block, tmp_path)
                print(f"{page}, block {number}: {len(ran)} commands")


def test_a_block_is_understood_as_bash_does(tmp_path):
    block = """cat > map.json << EOF
{"1": 2}
EOF
for fold in 0 1; do
    nnUNetv2_train 1 2d $fold \\
        --npz  # why
done
"""
    assert commands_in(block + "nnunet_ssl check -d 1 && python -m a.b", tmp_path) == [
        ["nnUNetv2_train", "1", "2d", "0", "--npz"],
        ["nnUNetv2_train", "1", "2d", "1", "--npz"],
        ["nnunet_ssl", "check", "-d", "1"],
        ["python", "-m", "a.b"],
    ]
    assert json.loads((tmp_path / "map.json").read_text()) == {"1": 2}


def test_what_is_shortened():
    short = "_1epochs_1iters"
    assert shortened(["nnUNetv2_train", "1", "2d", "0", "-num_gpus", "2"]) == (
        f"nnUNetv2_train 1 2d 0 -tr nnUNetTrainer{short} -device cpu".split()
    )
    assert (
        shortened(["nnUNetv2_train", "-tr", "nnUNetTrainerCPS_100epochs_seed1"])[2] == f"nnUNetTrainerCPS{short}_seed1"
    )
    weights = "r/nnUNetTrainer__nnUNetPlans__2d/fold_0/checkpoint_final.pth"
    assert shortened(
        ["nnUNetv2_train", "1", "2d", "0", "-tr", "nnUNetTrainerCPS_seed1", "-pretrained_weights", weights]
    )[5:8] == [
        f"nnUNetTrainerCPS{short}_seed1",
        "-pretrained_weights",
        weights.replace("Trainer__", f"Trainer{short}__"),
    ]
    assert shortened(["nnunet_ssl", "compare", "-d", "1", "-np", "8", "-tr", "nnUNetTrainer"]) == (
        f"nnunet_ssl compare -d 1 -tr nnUNetTrainer{short} -device cpu -np 1".split()
    )
    assert shortened(["nnunet_ssl", "pseudo_label", "-d", "1", "--gate", "0.8"])[4:6] == ["--gate", "0"]
    assert "-device" not in shortened(["nnunet_ssl", "pseudo_label", "-d", "1", "--from", "folder"])
