"""The writing of a data set: checked cases, and a folder that is complete or not there at all."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.data.ownership import RECORD
from nnunet_ssl.data.unlabeled_list import UnlabeledList, hash_case
from nnunet_ssl.dataset_conversion.common import Assignment, Case, DatasetDescription
from nnunet_ssl.errors import UserError
from tests.helpers.paths import REPOSITORY
from tests.helpers.toy_release import SHAPE, convert, make_case, read_and_die, read_and_raise, write


@pytest.fixture
def five(tmp_path) -> list[Case]:
    return [make_case(tmp_path / "in", f"c{number}") for number in range(1, 6)]


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones included, with its bytes; not the record, which holds times."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != RECORD]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_data_set_has_the_agreed_form_and_passes_the_check_of_nnunet(raw, five, capsys):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    target = convert(five)
    assert target == raw / "Dataset101_Toy"
    assert sorted(content(target)) == [
        "dataset.json",
        *(f"imagesTr/c{number}_0000.nii.gz" for number in (1, 2, 4)),
        "imagesTs/c5_0000.nii.gz",
        "imagesUn/c3_0000.nii.gz",
        *(f"labelsTr/c{number}.nii.gz" for number in (1, 2, 4)),
        "labelsTs/c5.nii.gz",
        "splits_final.json",
        "unlabeled.json",
    ]
    assert [path.name for path in raw.iterdir()] == ["Dataset101_Toy"]
    verify_dataset_integrity(str(target), num_processes=1)
    description = json.loads((target / "dataset.json").read_text())
    assert (description["numTraining"], description["file_ending"]) == (3, ".nii.gz")
    assert description["labels"] == {"background": 0, "organ": 1}
    assert json.loads((target / "splits_final.json").read_text()) == [{"train": ["c1", "c2"], "val": ["c4"]}]
    listed = UnlabeledList.load(target / "unlabeled.json")
    assert (set(listed.unlabeled), set(listed.labeled), set(listed.test)) == ({"c3"}, {"c1", "c2", "c4"}, {"c5"})
    assert listed.groups == {}
    for part, folder in ((listed.unlabeled, "imagesUn"), (listed.labeled, "imagesTr"), (listed.test, "imagesTs")):
        for case_id, record in part.items():
            assert record.source == f"{case_id}.nii.gz"
            assert record.sha256 == hash_case([target / folder / f"{case_id}_0000.nii.gz"])
    mask = sitk.ReadImage(str(target / "labelsTr" / "c1.nii.gz"))
    assert sorted(np.unique(sitk.GetArrayFromImage(mask)).tolist()) == [0, 1]
    assert mask.GetSpacing() == (1.0, 1.0, 2.0)
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(target / "imagesUn" / "c3_0000.nii.gz")))
    np.testing.assert_array_equal(written, sitk.GetArrayFromImage(sitk.ReadImage(str(five[2].images[0]))))
    printed = capsys.readouterr().out
    assert "trains on the 2 labeled cases and validates on 1 others" in printed
    assert "split hash" in printed


def test_without_a_validation_list_fold_0_validates_on_its_training_cases_and_says_so(raw, five, capsys):
    target = convert(five, Assignment(("c1", "c2"), ("c3", "c4"), (), ("c5",)))
    assert json.loads((target / "splits_final.json").read_text()) == [{"train": ["c1", "c2"], "val": ["c1", "c2"]}]
    assert "no validation list" in capsys.readouterr().out


def test_the_label_of_an_unlabeled_case_is_not_even_opened(raw, five):
    five[2].label.write_text("garbage")
    target = convert(five)
    assert not list(target.rglob("*c3.nii.gz"))


def test_patients_of_several_cases_are_kept_in_the_groups(raw, tmp_path):
    cases = [make_case(tmp_path / "in", name, patient=name[:2]) for name in ("p1_a", "p1_b", "p2_a")]
    target = convert(cases, Assignment(("p1_a", "p1_b"), ("p2_a",)))
    assert UnlabeledList.load(target / "unlabeled.json").groups == {"p1_a": "p1", "p1_b": "p1", "p2_a": "p2"}


def test_a_test_case_may_lack_a_label_and_an_empty_label_is_mentioned(raw, five, tmp_path, capsys):
    five[4] = make_case(tmp_path / "in2", "c5", with_label=False)
    write(np.zeros(SHAPE, np.uint8), five[0].label)
    target = convert(five)
    assert (target / "imagesTs" / "c5_0000.nii.gz").is_file()
    assert not (target / "labelsTs" / "c5.nii.gz").exists()
    printed = capsys.readouterr().out
    assert "1 test case(s) have no label and cannot be evaluated: c5" in printed
    assert "1 label(s) without any foreground: c1" in printed


def test_images_that_occur_twice_under_different_names_are_mentioned(raw, five, capsys):
    convert(five)
    assert "more than once" not in capsys.readouterr().out
    five[3].images[0].write_bytes(five[1].images[0].read_bytes())
    convert(five, overwrite=True)
    assert "1 image(s) occur more than once, voxel for voxel: c2 = c4" in capsys.readouterr().out


def test_two_processes_write_the_same_bytes_as_one(raw, five, tmp_path, monkeypatch):
    one = content(convert(five))
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw2"))
    assert content(convert(five, num_processes=2)) == one


@pytest.mark.parametrize(
    "geometry, what",
    [
        ({"spacing": (1.0, 1.0, 2.1)}, r"spacing of the label is \(1, 1, 2.1\), that of the image MRI is \(1, 1, 2\)"),
        ({"origin": (0, 5, 0)}, "origin of the label"),
        ({"direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1)}, "direction of the label"),
    ],
)
def test_a_label_with_another_geometry_is_reported_and_not_repaired(raw, five, tmp_path, geometry, what):
    five[1] = make_case(tmp_path / "in", "c2", **geometry)
    with pytest.raises(UserError, match=what) as error:
        convert(five)
    assert "case c2 (c2.nii.gz)" in str(error.value)
    assert list(raw.iterdir()) == []


def test_a_label_of_another_shape_is_reported(raw, five):
    write(np.zeros((4, 6, 6), np.uint8), five[1].label)
    with pytest.raises(UserError, match=r"shape of the label is \(6, 6, 4\), that of the image MRI is \(5, 6, 4\)"):
        convert(five)


def test_channels_of_different_geometry_and_a_missing_channel_are_reported(raw, five, tmp_path):
    two = DatasetDescription(101, "Toy", {"0": "T1", "1": "T2"}, {"background": 0, "organ": 1}, ({0: 0, 255: 1},))
    cases = [Case(c.case_id, c.patient, c.images * 2, c.label, c.source) for c in five]
    other = write(np.zeros((4, 6, 6), np.int16), tmp_path / "other.nii.gz")
    cases[2] = Case("c3", "c3", (five[2].images[0], other), five[2].label, "c3")
    cases[3] = five[3]
    with pytest.raises(UserError, match="shape of the image T2") as error:
        convert(cases, dataset=two)
    assert "case c4 (c4.nii.gz): 1 image(s) found, 2 needed (T1, T2)" in str(error.value)
    assert "2 of 5 cases cannot be converted" in str(error.value)


@pytest.mark.parametrize("codes, found", [((0, 4), "(0, 4)"), ((0, 1, 255), "(0, 1, 255)"), ((0.0, 0.5), "(0, 0.5)")])
def test_an_unexpected_label_code_is_named_with_the_allowed_ones(raw, five, codes, found):
    mask = np.zeros(SHAPE, np.float32 if 0.5 in codes else np.uint8)
    mask.flat[: len(codes)] = codes
    write(mask, five[1].label)
    with pytest.raises(UserError) as error:
        convert(five)
    assert f"{five[1].label} holds the codes {found}; allowed is {{0, 255}} or {{0, 1}}" in str(error.value)


def test_voxels_that_are_no_numbers_and_4d_images_are_refused(raw, five, tmp_path):
    array = np.zeros(SHAPE, np.float32)
    array[0, 0, 0] = np.nan
    # NRRD, because ITK reads a NaN of a NIfTI file as 0
    five[0] = Case("c1", "c1", (write(array, tmp_path / "c1.nrrd"),), five[0].label, "c1.nrrd")
    sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(np.zeros(SHAPE, np.uint8))] * 2), str(five[2].images[0]))
    with pytest.raises(UserError, match="NaN or infinite") as error:
        convert(five)
    assert "case c3 (c3.nii.gz): image MRI has 4 dimensions" in str(error.value)


def test_all_faulty_cases_are_reported_together(raw, five):
    for case in five[:4]:
        case.images[0].write_bytes(case.images[0].read_bytes()[:100])
    with pytest.raises(UserError, match="4 of 5 cases cannot be converted; nothing was written") as error:
        convert(five, num_processes=2)
    assert all(str(case.images[0]) in str(error.value) for case in five[:4])
    assert list(raw.iterdir()) == []


@pytest.mark.parametrize(
    "assignment, message",
    [
        (Assignment((), ("c3",)), "no labeled case"),
        (Assignment(("c1", "c9")), r"the list of labeled cases names 1 unknown case\(s\): c9"),
        (Assignment(("c1", "c2"), test=("c2",)), "case c2 is both labeled and test"),
        (Assignment(("c1", "n1")), r"1 labeled case\(s\) have no label file: n1"),
        (Assignment(("c1",), validation=("n1",)), r"1 validation case\(s\) have no label file: n1"),
        (Assignment(("c1",), ("q_a",), test=("q_b",)), "patient q has cases for training and for test"),
    ],
)
def test_an_assignment_that_leaks_or_cannot_be_met_is_refused(raw, five, tmp_path, assignment, message):
    cases = [*five, make_case(tmp_path / "in", "n1", with_label=False)]
    cases += [make_case(tmp_path / "in", name, patient="q") for name in ("q_a", "q_b")]
    with pytest.raises(UserError, match=message):
        convert(cases, assignment)
    assert not raw.exists()


def test_a_duplicate_case_and_an_id_like_a_channel_are_refused(raw, five, tmp_path):
    with pytest.raises(UserError, match=r"case c1 occurs twice in the input: c1.nii.gz and c1.nii.gz"):
        convert([*five, five[0]])
    with pytest.raises(UserError, match="case x_0001"):
        convert([*five, make_case(tmp_path / "in", "x_0001")])


def test_the_same_request_again_writes_nothing_and_another_is_refused(raw, five, tmp_path, capsys):
    target = convert(five)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    assert convert(five, reader=partial(read_and_raise, error=AssertionError("read again"))) == target
    said = capsys.readouterr().out
    assert "already holds this conversion" in said and "Warning" not in said
    os.utime(five[0].images[0])
    shutil.copy2(five[1].label, tmp_path / "moved")  # with the time of the old file
    os.replace(tmp_path / "moved", five[1].label)
    convert(five)
    assert "2 file(s) of the input have changed since" in capsys.readouterr().out
    other_split = Assignment(("c1", "c4"), ("c3",), ("c2",), ("c5",))
    other_cases = Assignment(("c1",), ("c2", "c3"), ("c4",), ("c5",))
    for assignment in (other_split, other_cases):
        with pytest.raises(UserError, match="--overwrite"):
            convert(five, assignment)
    (target / "unlabeled.json").unlink()
    del before[target / "unlabeled.json"]
    with pytest.raises(UserError, match="--overwrite"):
        convert(five)
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before
    assert [path.name for path in raw.iterdir()] == ["Dataset101_Toy"]


def test_overwrite_replaces_the_data_set_and_leaves_nothing_of_the_old_one(raw, five):
    target = convert(five)
    first = content(target)
    assert content(convert(five, overwrite=True)) == first
    assert [path.name for path in raw.iterdir()] == ["Dataset101_Toy"]


def test_overwrite_refuses_what_it_has_not_written(raw, five, tmp_path):
    target = convert(five)
    own = {"imagesTr/stale_0000.nii.gz": "x", "notes.txt": "mine"}
    for path, text in own.items():
        (target / path).write_text(text)
    before = content(target)
    with pytest.raises(
        UserError, match=r"holds 2 file\(s\) that were not written .*notes.txt, imagesTr/stale_0000.nii.gz"
    ):
        convert(five, overwrite=True)
    assert content(target) == before
    for path in own:
        (target / path).unlink()
    label = next((target / "labelsTr").iterdir())
    label.write_bytes(label.read_bytes() + b" ")  # corrected by hand
    with pytest.raises(UserError, match=rf"have changed since: labelsTr/{label.name}"):
        convert(five, overwrite=True)
    (target / RECORD).unlink()
    with pytest.raises(UserError, match=r"has no \.nnunet_ssl_files\.json: it was made by hand"):
        convert(five, overwrite=True)


def test_overwrite_refuses_an_input_in_the_target(raw, five, tmp_path):
    target = convert(five)
    (target / "release").mkdir()
    moved = [replace(case, images=tuple(shutil.move(f, target / "release") for f in case.images)) for case in five]
    linked = tmp_path / "link"
    linked.symlink_to(target / "release")
    for folder in (target / "release", linked):
        cases = [replace(case, images=tuple(folder / Path(f).name for f in case.images)) for case in moved]
        before = content(target)
        with pytest.raises(UserError, match=r"lies in .*Dataset101_Toy, which would be replaced"):
            convert(cases, overwrite=True)
        assert content(target) == before


def test_what_came_into_a_replaced_data_set_stays_and_is_named(raw, five, capsys):
    target = convert(five)
    replaced = raw / f".{target.name}.replaced"  # as a killed conversion leaves it
    shutil.copytree(target, replaced)
    (replaced / "mine.txt").write_text("x")
    before = content(target)
    with pytest.raises(UserError, match=r"replaced is where the next replaced folder would be put"):
        convert(five, overwrite=True)
    assert "1 file(s) that are not ours: mine.txt" in capsys.readouterr().out
    assert content(target) == before and content(replaced) == {"mine.txt": b"x"}


def test_a_target_that_is_a_link_to_another_disk_stays_one(raw, five, tmp_path):
    elsewhere = tmp_path / "big disk" / "Toy"
    elsewhere.parent.mkdir()
    target = convert(five)
    os.rename(target, elsewhere)
    target.symlink_to(elsewhere)
    first = content(elsewhere)
    convert(five, overwrite=True)
    assert target.is_symlink() and content(elsewhere) == first
    assert [path.name for path in elsewhere.parent.iterdir()] == ["Toy"]


def test_a_failed_overwrite_leaves_the_old_data_set_as_it_was(raw, five):
    before = content(convert(five).parent)
    five[1].images[0].write_text("garbage")
    with pytest.raises(UserError, match="cannot be converted"):
        convert(five, overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        convert(five, reader=partial(read_and_raise, error=KeyboardInterrupt()), overwrite=True)
    assert content(raw) == before


def test_a_rename_that_fails_puts_the_old_data_set_back(raw, five, monkeypatch):
    target = convert(five)
    before = content(raw)
    rename = os.rename

    def refuse_staging(source, destination):
        if ".converting-" in str(source):
            raise OSError(errno.EIO, "broken disk", str(source))
        rename(source, destination)

    monkeypatch.setattr(os, "rename", refuse_staging)
    with pytest.raises(UserError, match="broken disk"):
        convert(five, overwrite=True)
    assert content(raw) == before
    assert target.is_dir()


def test_an_id_of_another_data_set_is_refused_wherever_nnunet_would_find_it(raw, five, tmp_path):
    for folder in (raw, tmp_path / "nnUNet_preprocessed"):
        (folder / "Dataset101_Other").mkdir(parents=True)
        with pytest.raises(UserError, match=r"-d 101: the id belongs to Dataset101_Other"):
            convert(five)
        (folder / "Dataset101_Other").rmdir()


def test_a_bad_id_a_bad_name_and_a_missing_environment_variable_are_named(raw, five, monkeypatch):
    for dataset_id, name, message in ((0, "Toy", "-d 0"), (1000, "Toy", "-d 1000"), (1, "a/b", "-name a/b")):
        with pytest.raises(UserError, match=message):
            convert(five, dataset=DatasetDescription(dataset_id, name, {"0": "MRI"}, {}, ()))
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(UserError, match="nnUNet_raw is not set"):
        convert(five)


# --- disasters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_full_disk_is_named_and_nothing_is_left(raw, five, num_processes):
    reader = partial(read_and_raise, error=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere"))
    with pytest.raises(UserError, match=r"no space left on the disk of .*raw.*MB are free.*nothing was kept"):
        convert(five, reader=reader, num_processes=num_processes)
    assert list(raw.iterdir()) == []


def test_an_input_that_the_system_cannot_read_is_a_fault_of_the_case(raw, five):
    with pytest.raises(UserError, match=r"case c2 \(c2.nii.gz\) cannot be read: .*Stale"):
        convert(five, reader=partial(read_and_raise, error=OSError(errno.ESTALE, "Stale file handle")))


def in_subprocess(five: list[Case], statements: str, reader: str, num_processes: int) -> subprocess.Popen:
    """The conversion of `five` in a Python process of its own, after `statements`."""
    code = f"""
    import sys
    from tests.helpers import toy_release as t
    from nnunet_ssl.errors import UserError
    {statements}
    if __name__ == "__main__":
        from pathlib import Path
        cases = [t.Case(f"c{{n}}", f"c{{n}}", (Path(sys.argv[1]) / f"c{{n}}.nii.gz",),
                        Path(sys.argv[1]) / f"c{{n}}_mask.nii.gz", f"c{{n}}.nii.gz") for n in range(1, 6)]
        try:
            t.convert(cases, reader=t.{reader}, num_processes={num_processes})
        except UserError as error:
            sys.exit(f"UserError: {{error}}")
    """
    script = five[0].images[0].parent / "run.py"
    script.write_text(textwrap.dedent(code))
    return subprocess.Popen(
        [sys.executable, str(script), str(script.parent)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_file_that_could_not_be_written_completely_is_noticed(raw, five):
    # SimpleITK reports success here; the limit stands for a full disk, whose write calls fail the same way
    write(np.random.default_rng(0).integers(0, 9999, (20, 64, 64)).astype(np.int16), five[2].images[0])
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, {resource.RLIM_INFINITY}))"
    run = in_subprocess(five, limit, "read_plain", 1)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "UserError:" in errors and "cannot be written" in errors and "c3_0000.nii.gz" in errors
    assert list(raw.iterdir()) == []


def test_a_worker_that_dies_ends_the_conversion_with_a_remedy(raw, five):
    with pytest.raises(
        UserError, match=r"a background process died.*nothing was written.*fewer processes than -np 2.*-np 1"
    ):
        convert(five, reader=read_and_die, num_processes=2)
    assert list(raw.iterdir()) == []


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the workers through /proc")
def test_a_killed_conversion_leaves_no_worker_no_half_data_set_and_does_not_disturb_the_next(raw, five, capsys):
    run = in_subprocess(five, "", "read_slowly", 2)
    # c1 is written and c2 sleeps: in the middle of the conversion
    wait_until(lambda: run.poll() is not None or list(raw.glob(".*/labelsTr/c1.nii.gz")))
    assert run.poll() is None
    workers = children(run.pid)
    assert len(workers) >= 2
    run.kill()
    run.wait()
    run.stderr.close()
    try:
        wait_until(lambda: not any(map(is_alive, workers)))
    finally:
        for worker in filter(is_alive, workers):
            os.kill(worker, signal.SIGKILL)
    assert [path.name.startswith(".Dataset101_Toy.converting-") for path in raw.iterdir()] == [True]
    target = convert(five)
    assert "left by an interrupted run" in capsys.readouterr().out
    assert list(raw.iterdir()) == [target]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_data_set_that_a_killed_conversion_had_moved_aside_comes_back(raw, five, capsys):
    target = convert(five)
    before = content(target)
    os.rename(target, raw / ".Dataset101_Toy.replaced")
    assert convert(five) == target
    assert "is back in its place" in capsys.readouterr().out
    assert content(target) == before
    (raw / ".Dataset101_Toy.replaced").mkdir()
    convert(five)
    assert list(raw.iterdir()) == [target]
