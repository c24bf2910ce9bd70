"""Every spoiled input, given to every command that reads it: right, or refused with nothing written, and never a traceback."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning import plan_and_preprocess_api
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

from nnunet_ssl import cli
from nnunet_ssl.data import label_files, list_update
from nnunet_ssl.errors import UserError
from nnunet_ssl.evaluation import statistics
from tests.faults import inputs, releases, results, rounds
from tests.faults.inputs import COMMANDS, NAME, write_sound
from tests.faults.spoiling import Spoiled
from tests.helpers.paths import REPOSITORY
from tests.helpers.raw_data import use_folders

SECONDS = 120  # a machine of two busy cores
SCENES = [*inputs.SCENES, *releases.SCENES, *results.SCENES, *rounds.SCENES]
PAIRS = [
    (number, row, command)
    for number, scene in enumerate(SCENES)
    for row in scene.rows
    for command in (*row.refused, *row.right)
    if command in scene.commands
]
SHORT = 6  # one pair of so many is tried without --long; a row has several commands, and a scene many rows


def _marked(index: int, number: int, row: Spoiled, command: str):
    marks = () if index % SHORT == 0 else (pytest.mark.long, pytest.mark.slow)
    return pytest.param(number, row, command, id=f"{row.name}-{command}", marks=marks)


every_intensity = DatasetFingerprintExtractor.collect_foreground_intensities


def few_intensities(*arguments, num_samples: int, **options):
    """nnU-Net draws a hundred million voxels, whatever the data set has."""
    return every_intensity(*arguments, num_samples=min(num_samples, 1000), **options)


def make_fast(patch: pytest.MonkeyPatch) -> None:
    """Pools of threads, and few voxels for nnU-Net's fingerprint."""
    patch.setattr(multiprocessing, "get_context", lambda method: types.SimpleNamespace(Pool=ThreadPool))
    patch.setattr(DatasetFingerprintExtractor, "collect_foreground_intensities", staticmethod(few_intensities))
    patch.setattr(statistics, "RESAMPLES", 99)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Callable[[int], Path]:
    """The sound state of a scene by its number; made once, and copied by the tests."""
    made: dict[int, Path] = {}

    def get(number: int) -> Path:
        if number not in made:
            made[number] = tmp_path_factory.mktemp("sound")
            with pytest.MonkeyPatch.context() as patch:
                use_folders(patch, made[number])
                make_fast(patch)
                SCENES[number].write(made[number])
        return made[number]

    return get


@pytest.fixture(scope="module")
def sound(written) -> Path:
    """Two sound data sets; the first is planned and preprocessed."""
    return written(0)


@contextmanager
def within(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise AssertionError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def snapshot(root: Path) -> dict[str, tuple]:
    """Every path with what tells whether it was written to."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            state = path.lstat()
            is_file = path.is_file() and not path.is_symlink()
            found[str(path.relative_to(root))] = (state.st_mode, (state.st_size, state.st_mtime_ns) if is_file else ())
    return found


@pytest.mark.parametrize(("number", "row", "command"), [_marked(index, *pair) for index, pair in enumerate(PAIRS)])
def test_it_is_right_or_refused_with_nothing_written(
    number, row: Spoiled, command, written, monkeypatch, tmp_path, capfd
):
    root = tmp_path / "root"
    shutil.copytree(written(number), root)
    for file in root.rglob("unlabeled.json"):  # else the copies of images are newer than the list of their hashes
        os.utime(file)
    use_folders(monkeypatch, root)
    make_fast(monkeypatch)
    row.spoil(root / SCENES[number].place)
    before = snapshot(root)
    capfd.readouterr()
    with within(SECONDS):
        code = cli.main([word.format(root=root) for word in (*SCENES[number].commands[command], *row.options)])
    out, err = capfd.readouterr()
    # while it looks for a reader, nnU-Net itself prints why it does not take one, and goes on
    looks_for_reader = code == 0 and "Failed to open file" in out
    assert looks_for_reader or "Traceback" not in err + out
    if command in row.right:
        assert code == 0, err
    else:
        assert code == 1 and row.words.format(root=root) in err, (code, err)
        assert snapshot(root) == before


def test_a_number_of_four_digits_beside_one_of_three(monkeypatch, tmp_path, capfd):
    use_folders(monkeypatch, tmp_path)
    make_fast(monkeypatch)
    for name in ("Dataset1234_Long", "Dataset123_Short"):
        write_sound(tmp_path / "nnUNet_raw" / name)
    assert cli.main(["plan_and_preprocess", "-d", "1234", "-c", "2d", "-np", "1", "-npfp", "1"]) == 0, (
        capfd.readouterr()
    )
    assert (tmp_path / "nnUNet_preprocessed/Dataset1234_Long/nnUNetPlans_2d_unlabeled/u.b2nd").is_file()


def test_two_data_sets_of_one_id_are_not_planned(monkeypatch, tmp_path, capfd):
    """Also by its full name: nnU-Net's planner looks for the id."""
    use_folders(monkeypatch, tmp_path)
    for name in ("Dataset041_One", "Dataset041_Other"):
        write_sound(tmp_path / "nnUNet_raw" / name)
    before = snapshot(tmp_path)
    assert cli.main(["plan_and_preprocess", "-d", "Dataset041_One", "-c", "2d", "-np", "1", "-npfp", "1"]) == 1
    assert "data set 041: More than one dataset name found" in capfd.readouterr().err
    assert snapshot(tmp_path) == before


def test_no_more_processes_than_cases_are_asked_of_nnunet(monkeypatch, tmp_path):
    use_folders(monkeypatch, tmp_path)
    write_sound(tmp_path / "nnUNet_raw" / NAME)
    asked = []

    def stop(datasets, extractor, processes, *further):
        asked.append(processes)
        raise UserError("as far as this")

    monkeypatch.setattr(list_update, "run_in_processes", lambda f, jobs, *more: enumerate(f(*job) for job in jobs))
    monkeypatch.setattr(label_files, "run_in_processes", lambda f, jobs, *more: enumerate(f(*job) for job in jobs))
    monkeypatch.setattr(plan_and_preprocess_api, "extract_fingerprints", stop)
    assert cli.main(["plan_and_preprocess", "-d", NAME, "-c", "2d", "-npfp", "999"]) == 1
    assert asked == [3]


def test_splits_that_cannot_be_used_are_replaced_where_that_is_asked_for(sound, monkeypatch, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(sound, root)
    use_folders(monkeypatch, root)
    for folder in ("nnUNet_raw", "nnUNet_preprocessed"):
        (root / folder / NAME / "splits_final.json").write_text('[{"train": ["a.nii.gz"], "val": ["b.nii.gz"]}]')
    assert cli.main(COMMANDS["split"]) == 1 and cli.main([*COMMANDS["split"], "--overwrite"]) == 0
    assert "nii" not in (root / "nnUNet_preprocessed" / NAME / "splits_final.json").read_text()


def test_a_corrected_spacing_is_preprocessed_again(sound, monkeypatch, tmp_path, capfd):
    root = tmp_path / "root"
    shutil.copytree(sound, root)
    use_folders(monkeypatch, root)
    make_fast(monkeypatch)
    plan = ["plan_and_preprocess", "-d", "41", "-c", "2d", "-np", "1", "-npfp", "1"]
    assert cli.main(plan) == 0
    out = capfd.readouterr().out
    assert "0 done, 2 kept" in out and "3 labeled cases are up to date" in out
    for name in ("imagesUn/u_0000", "imagesTr/a_0000", "labelsTr/a"):
        file = str(root / "nnUNet_raw" / NAME / f"{name}.nii.gz")
        image = sitk.ReadImage(file)
        image.SetSpacing((1.0, 1.5, 1.0))
        sitk.WriteImage(image, file)
    assert cli.main(plan) == 0
    out = capfd.readouterr().out
    assert "fingerprint and plans are made anew" in out and "labeled cases are up to date" not in out
    assert "1 done, 1 kept" in out or "2 done, 0 kept" in out  # the second where the plans have changed, too


def test_a_round_notices_a_corrected_spacing(sound, monkeypatch, tmp_path, capfd):
    root = tmp_path / "root"
    shutil.copytree(sound, root)
    use_folders(monkeypatch, root)
    make_fast(monkeypatch)
    command = [word.format(root=root) for word in COMMANDS["pseudo_label"]]
    image, label_map = root / "nnUNet_raw" / NAME / "imagesUn/u_0000.nii.gz", root / "maps" / "u.nii.gz"

    def correct(file: Path) -> None:
        corrected = sitk.ReadImage(str(file))
        corrected.SetSpacing((1.0, 1.5, 1.0))
        sitk.WriteImage(corrected, str(file))

    assert cli.main(command) == 0 and "2 cases to do, 0 kept" in capfd.readouterr().out
    assert cli.main(command) == 0 and "is finished: 2 cases" in capfd.readouterr().out
    correct(image)
    assert cli.main(command) == 1
    assert f"{label_map}: spacing" in capfd.readouterr().err
    correct(label_map)
    assert cli.main(command) == 0 and "1 cases to do, 1 kept" in capfd.readouterr().out
    (kept,) = (root / "nnUNet_preprocessed" / NAME / "pseudo_labels").rglob("u.nii.gz")
    assert sitk.ReadImage(str(kept)).GetSpacing() == (1.0, 1.5, 1.0)


def test_check_names_what_is_turned_and_what_is_constant(sound, monkeypatch, tmp_path, capfd):
    root = tmp_path / "root"
    shutil.copytree(sound, root)
    use_folders(monkeypatch, root)
    for case, values, direction in (("u", 1.0, (-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)), ("v", 0.0, None)):
        file = str(root / "nnUNet_raw" / NAME / f"imagesUn/{case}_0000.nii.gz")
        image = sitk.Cast(sitk.ReadImage(file), sitk.sitkFloat32) * values
        if direction is not None:
            image.SetDirection(direction)
        sitk.WriteImage(image, file)
    assert cli.main(COMMANDS["check"]) == 0
    out = capfd.readouterr().out
    assert "imagesUn/u: its axes point to R" in out and "those of the labeled cases to L" in out
    assert "imagesUn/v: channel 0 is constant" in out and "imagesUn/v: its axes" not in out


def test_the_page_says_how_many_are_tried():
    page = (REPOSITORY / "docs" / "reliability.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!-- inputs -->\n(.*?)\n<!-- end of inputs -->", page, re.DOTALL)
    lines = ["| command | tried | right | refused | wrong |", "|---|---|---|---|---|"]
    tried = Counter()
    for number, row, command in PAIRS:
        tried[SCENES[number].commands[command][0], "right" if command in row.right else "refused"] += 1
    for command in dict.fromkeys(words[0] for scene in SCENES for words in scene.commands.values()):
        right, refused = tried[command, "right"], tried[command, "refused"]
        lines.append(f"| `{command}` | {right + refused} | {right} | {refused} | 0 |")
    rows = {id(row) for scene in SCENES for row in scene.rows}
    assert shown == "\n".join(lines) and f"{len(rows)} ways to spoil" in page
