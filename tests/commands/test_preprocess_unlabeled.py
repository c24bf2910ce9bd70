"""Planning and preprocessing with unlabeled images: only what is missing is done, and nothing stale or half is taken."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ssl.cli import main
from nnunet_ssl.data.list_update import update_list
from nnunet_ssl.data.pool import run_in_processes
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.splits import load_splits
from nnunet_ssl.data.unlabeled_list import UnlabeledList, hash_case
from nnunet_ssl.errors import UserError
from nnunet_ssl.preprocessing.preprocessed import manifest_file, preprocessing_hash, unlabeled_folder, verify_unlabeled
from tests.helpers.raw_data import phantom, use_folders, write_image, write_raw_dataset, write_split

NAME = "Dataset801_Balls"
LABELED = {f"lab_{seed}": seed for seed in range(4)}
UNLABELED = {f"unl_{seed}": seed for seed in range(10, 13)}
TEST = {"tes_0": 20}


def command(name: str, *arguments: str) -> int:
    return main([name, "-d", "801", *arguments, "--no_pbar"])


def preprocess_unlabeled(*arguments: str) -> int:
    return command("preprocess_unlabeled", "-np", "1", *arguments)


def plan_and_preprocess(*arguments: str) -> int:
    return command("plan_and_preprocess", "-c", "3d_fullres", "-np", "1", "-npfp", "1", *arguments)


@pytest.fixture(scope="module")
def planned(tmp_path_factory) -> Path:
    """Folders with a data set that plan_and_preprocess has been run on; copied by the tests that change something."""
    root = tmp_path_factory.mktemp("planned")
    write_raw_dataset(root / "nnUNet_raw" / NAME, LABELED, UNLABELED, TEST)
    write_split(root / "nnUNet_raw" / NAME, (list(LABELED), list(LABELED)))
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_folders(monkeypatch, root)
        assert plan_and_preprocess() == 0
    return root


@pytest.fixture
def own(planned, tmp_path, monkeypatch) -> Path:
    """A copy of `planned` with nnU-Net's variables pointing to it."""
    root = tmp_path / "own"
    shutil.copytree(planned, root)  # keeps the times of the files, which decide whether hashes are trusted
    use_folders(monkeypatch, root)
    return root


class _Folders:
    """Paths and managers of the data set below `root`."""

    def __init__(self, root: Path, plans_name: str = "nnUNetPlans", configuration: str = "3d_fullres"):
        self.raw, self.base = root / "nnUNet_raw" / NAME, root / "nnUNet_preprocessed" / NAME
        self.plans = PlansManager(str(self.base / f"{plans_name}.json"))
        self.configuration = self.plans.get_configuration(configuration)
        self.unlabeled = Path(unlabeled_folder(self.base, self.configuration))
        self.labeled = self.base / self.configuration.data_identifier
        self.manifest = Path(manifest_file(self.base, self.configuration))

    def verify(self, cases=UNLABELED) -> None:
        verify_unlabeled(self.base, self.plans, self.configuration, cases)

    def edit_plans(self, **changes) -> None:
        file = self.base / f"{self.plans.plans_name}.json"
        plans = json.loads(file.read_text())
        plans["configurations"]["3d_fullres"].update(changes)
        file.write_text(json.dumps(plans))


def times(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}


# ------------------------------------------------------------------------------------------------ what is written


def test_unlabeled_cases_lie_in_a_sibling_folder_that_holds_case_files_only(planned):
    folders = _Folders(planned)
    assert sorted(os.listdir(folders.unlabeled)) == sorted(
        f"{case}{ending}" for case in UNLABELED for ending in (".b2nd", ".pkl", "_seg.b2nd")
    )
    assert sorted(infer_dataset_class(str(folders.labeled)).get_identifiers(str(folders.labeled))) == sorted(LABELED)
    folders.verify()
    assert not list(folders.base.glob("*unfinished*"))


def test_unlabeled_images_are_normalized_like_nnunet_does(planned):
    folders = _Folders(planned)
    image = infer_dataset_class(str(folders.unlabeled))(str(folders.unlabeled), ["unl_10"]).load_case("unl_10")[0][:]
    expected, _ = phantom(10)
    expected = (expected - expected.mean()) / expected.std()
    assert image.shape == (1, *expected.shape)
    np.testing.assert_allclose(image[0], expected, atol=1e-4)


def test_a_hand_made_data_set_gets_its_list_in_both_places(planned):
    folders = _Folders(planned)
    content = UnlabeledList.load(folders.base / "unlabeled.json")
    assert content == UnlabeledList.load(folders.raw / "unlabeled.json")
    assert (sorted(content.unlabeled), sorted(content.labeled), sorted(content.test)) == (
        sorted(UNLABELED),
        sorted(LABELED),
        sorted(TEST),
    )
    assert content.unlabeled["unl_11"].sha256 == hash_case([folders.raw / "imagesUn" / "unl_11_0000.nii.gz"])
    assert load_splits(folders.base / "splits_final.json")[0]["val"] == sorted(LABELED)


def test_plans_are_those_of_nnunet_without_the_unlabeled_images(planned, tmp_path, monkeypatch):
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments

    write_raw_dataset(tmp_path / "nnUNet_raw" / NAME, LABELED)
    use_folders(monkeypatch, tmp_path)
    extract_fingerprints([801], num_processes=1, show_progress_bar=False)
    plan_experiments([801])
    stock = json.loads((tmp_path / "nnUNet_preprocessed" / NAME / "nnUNetPlans.json").read_text())
    assert stock == json.loads((_Folders(planned).base / "nnUNetPlans.json").read_text())


# ------------------------------------------------------------------------------------------------ running again


def test_running_again_changes_no_file_and_says_what_is_skipped(own, capsys):
    folders = _Folders(own)
    before = times(folders.unlabeled), times(folders.labeled), (folders.base / "nnUNetPlans.json").stat().st_mtime_ns
    assert plan_and_preprocess() == 0
    assert before == (
        times(folders.unlabeled),
        times(folders.labeled),
        (folders.base / "nnUNetPlans.json").stat().st_mtime_ns,
    )
    said = capsys.readouterr().out
    assert "fingerprint is up to date" in said and "nnUNetPlans.json is up to date" in said
    assert "4 labeled cases are up to date" in said and "0 done, 3 kept, 0 removed" in said


def test_clean_runs_all_of_nnunet_again_and_nothing_runs_without_it(own, monkeypatch):
    from nnunetv2.experiment_planning import plan_and_preprocess_api

    called = []
    for name in ("extract_fingerprints", "plan_experiments", "preprocess"):
        monkeypatch.setattr(plan_and_preprocess_api, name, lambda *arguments, name=name: called.append(name))
    assert plan_and_preprocess() == 0
    assert called == []
    assert plan_and_preprocess("-gpu_memory_target", "6") == 0
    assert called == ["plan_experiments"]
    assert plan_and_preprocess("-gpu_memory_target", "6") == 0
    assert called == ["plan_experiments"]
    assert plan_and_preprocess("--clean") == 0
    assert called[1:] == ["extract_fingerprints", "plan_experiments", "preprocess"]


@pytest.mark.parametrize(
    ("step", "file"), [("extract_fingerprints", "dataset_fingerprint.json"), ("plan_experiments", "nnUNetPlans.json")]
)
@pytest.mark.parametrize("left", [b'{"half": ', None])
def test_what_nnunet_has_not_finished_is_made_anew(own, monkeypatch, capsys, step, file, left):
    """A full disk while nnU-Net writes; also where a file of before was still there."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api

    folders = _Folders(own)
    wanted = json.loads((folders.base / file).read_text())

    def fail(*arguments):
        if left is not None:
            (folders.base / file).write_bytes(left)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folders.base / file))

    with monkeypatch.context() as failing:
        failing.setattr(plan_and_preprocess_api, step, fail)
        assert plan_and_preprocess("--clean") == 1
    assert "No space left on device" in capsys.readouterr().err
    called = []
    original = getattr(plan_and_preprocess_api, step)
    monkeypatch.setattr(plan_and_preprocess_api, step, lambda *a: called.append(step) or original(*a))
    assert plan_and_preprocess("--no_pp") == 0
    assert called == [step] and json.loads((folders.base / file).read_text()) == wanted


def test_a_case_without_its_properties_is_done_again_and_the_others_are_kept(own):
    folders = _Folders(own)
    (folders.unlabeled / "unl_11.pkl").unlink()
    with pytest.raises(UserError, match=r"unfinished.*unl_11.*nnunet_ssl preprocess_unlabeled -d 801 -c 3d_fullres"):
        folders.verify()
    before = times(folders.unlabeled)
    assert preprocess_unlabeled() == 0
    after = times(folders.unlabeled)
    folders.verify()
    assert {name for name in after if after[name] != before.get(name)} == {
        "unl_11.b2nd",
        "unl_11.pkl",
        "unl_11_seg.b2nd",
    }


def test_what_a_killed_run_leaves_behind_is_cleared_and_finished(own):
    folders = _Folders(own)
    manifest = json.loads(folders.manifest.read_text())
    del manifest["cases"]["unl_12"]  # killed between moving the files and naming the case
    (folders.unlabeled / "unl_12.b2nd").write_bytes(b"half a file")
    folders.manifest.write_text(json.dumps(manifest))
    scratch = Path(f"{folders.unlabeled}.unfinished") / "unl_12"
    scratch.mkdir(parents=True)
    (scratch / "unl_12.b2nd").write_bytes(b"half a file")
    with pytest.raises(UserError, match="unfinished"):
        folders.verify()
    assert preprocess_unlabeled("-c", "3d_fullres") == 0
    folders.verify()
    assert not scratch.parent.exists()
    dataset = infer_dataset_class(str(folders.unlabeled))(str(folders.unlabeled), ["unl_12"])
    assert dataset.load_case("unl_12")[0].shape == (1, *phantom(12)[0].shape)


def test_a_folder_without_manifest_is_not_trusted(own):
    folders = _Folders(own)
    folders.manifest.unlink()
    before = times(folders.unlabeled)
    with pytest.raises(UserError, match="not preprocessed"):
        folders.verify()
    assert preprocess_unlabeled() == 0
    assert all(time != before[name] for name, time in times(folders.unlabeled).items())
    folders.verify()


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ({"spacing": [1.0, 1.0, 1.25]}, True),
        ({"normalization_schemes": ["NoNormalization"]}, True),
        ({"resampling_fn_data_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}}, True),
        ({"batch_size": 17, "patch_size": [8, 8, 8]}, False),
    ],
)
def test_only_changes_of_the_plans_that_reach_the_images_make_the_folder_stale(own, change, stale):
    _Folders(own).edit_plans(**change)
    if stale:
        with pytest.raises(UserError, match="stale"):
            _Folders(own).verify()
    else:
        _Folders(own).verify()


def test_a_stale_folder_is_made_anew_with_the_new_plans(own, capsys):
    _Folders(own).edit_plans(normalization_schemes=["NoNormalization"])
    folders = _Folders(own)
    before = times(folders.unlabeled)
    assert preprocess_unlabeled() == 0
    assert "is stale" in capsys.readouterr().out
    assert all(time != before[name] for name, time in times(folders.unlabeled).items())
    folders.verify()
    assert json.loads(folders.manifest.read_text())["preprocessing_hash"] == preprocessing_hash(
        folders.plans, folders.configuration
    )
    image = infer_dataset_class(str(folders.unlabeled))(str(folders.unlabeled), ["unl_10"]).load_case("unl_10")[0][:]
    np.testing.assert_allclose(image[0], phantom(10)[0], rtol=1e-5)


def test_a_replaced_image_is_noticed_and_done_again(own):
    folders = _Folders(own)
    write_image(phantom(99)[0], folders.raw / "imagesUn" / "unl_10_0000.nii.gz")
    before = times(folders.unlabeled)
    assert preprocess_unlabeled() == 0
    after = times(folders.unlabeled)
    assert {name for name in after if after[name] != before[name]} == {"unl_10.b2nd", "unl_10.pkl", "unl_10_seg.b2nd"}
    assert UnlabeledList.load(folders.base / "unlabeled.json").unlabeled["unl_10"].sha256 == hash_case(
        [folders.raw / "imagesUn" / "unl_10_0000.nii.gz"]
    )


@pytest.mark.parametrize("how", ["written", "moved", "linked", "linked anew"])
def test_an_image_replaced_by_an_older_file_is_noticed(own, how):
    """As with `cp -p`, `mv`, `rsync -a` and a symbolic link."""
    folders = _Folders(own)
    file, older = folders.raw / "imagesUn" / "unl_10_0000.nii.gz", own / "older.nii.gz"
    if how == "linked anew":
        file.rename(own / "first.nii.gz")
        file.symlink_to(own / "first.nii.gz")
    write_image(phantom(99)[0], older)
    os.utime(older, (1, 1))
    assert preprocess_unlabeled() == 0
    time.sleep(0.05)  # the clock of a file system has ticks of up to 10 ms
    if how == "written":
        shutil.copy2(older, file)
    elif how == "moved":
        older.replace(file)
    else:
        file.unlink()
        file.symlink_to(older)
    assert preprocess_unlabeled() == 0
    assert UnlabeledList.load(folders.base / "unlabeled.json").unlabeled["unl_10"].sha256 == hash_case([file])
    folders.verify()


def test_hashes_are_reused_until_rehash(own):
    folders = _Folders(own)
    assert preprocess_unlabeled() == 0
    wrong = UnlabeledList.load(folders.base / "unlabeled.json")
    right = wrong.unlabeled["unl_10"].sha256
    wrong.unlabeled["unl_10"].sha256 = "0"
    for folder in (folders.base, folders.raw):
        wrong.save(folder / "unlabeled.json")
    raw = RawDataset.open(801)
    for rehash, expected in ((False, "0"), (True, right)):
        assert update_list(raw, 1, rehash, show_progress=False).unlabeled["unl_10"].sha256 == expected


def test_a_hash_that_is_not_known_is_computed(own):
    folders = _Folders(own)
    empty = UnlabeledList.load(folders.base / "unlabeled.json")
    empty.unlabeled["unl_10"].sha256 = ""
    for folder in (folders.base, folders.raw):
        empty.save(folder / "unlabeled.json")
    found = update_list(RawDataset.open(801), 1, show_progress=False).unlabeled["unl_10"]
    assert found.sha256 == hash_case([folders.raw / "imagesUn" / "unl_10_0000.nii.gz"])


def test_the_list_belongs_to_the_images_or_training_is_refused(own):
    folders = _Folders(own)
    write_image(phantom(99)[0], folders.raw / "imagesUn" / "unl_10_0000.nii.gz")
    update_list(RawDataset.open(801), 1, show_progress=False)
    with pytest.raises(UserError, match=r"stale.*unl_10"):
        folders.verify()


def test_cases_that_left_imagesun_are_removed_and_new_ones_added(own):
    folders = _Folders(own)
    (folders.raw / "imagesUn" / "unl_10_0000.nii.gz").unlink()
    write_image(phantom(30)[0], folders.raw / "imagesUn" / "new_0000.nii.gz")
    assert preprocess_unlabeled() == 0
    present = infer_dataset_class(str(folders.unlabeled)).get_identifiers(str(folders.unlabeled))
    assert sorted(present) == ["new", "unl_11", "unl_12"]
    folders.verify(["new", "unl_11", "unl_12"])
    assert sorted(UnlabeledList.load(folders.base / "unlabeled.json").unlabeled) == ["new", "unl_11", "unl_12"]


def test_a_changed_label_makes_plans_and_labeled_part_anew(own, capsys):
    folders = _Folders(own)
    write_image(phantom(1)[1] * 0 + 1, folders.raw / "labelsTr" / "lab_1.nii.gz")
    os.utime(folders.raw / "labelsTr" / "lab_1.nii.gz", (1, 1))
    assert plan_and_preprocess() == 0
    said = capsys.readouterr().out
    assert "have changed: fingerprint and plans are made anew" in said
    seg = infer_dataset_class(str(folders.labeled))(str(folders.labeled), ["lab_1"]).load_case("lab_1")[1][:]
    assert seg.min() == 1
    assert (folders.base / "gt_segmentations" / "lab_1.nii.gz").read_bytes() == (
        folders.raw / "labelsTr" / "lab_1.nii.gz"
    ).read_bytes()


def test_the_copy_of_dataset_json_is_whole_whenever_a_run_is_killed(own, monkeypatch):
    copy, raw = (own / folder / NAME / "dataset.json" for folder in ("nnUNet_preprocessed", "nnUNet_raw"))
    assert plan_and_preprocess() == 0
    before = copy.read_bytes()
    raw.write_text(json.dumps(json.loads(raw.read_text()) | {"description": "new"}))

    def killed(source, target, **_):
        Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        for function in ("copy", "copyfile"):
            patch.setattr(shutil, function, killed)
        assert plan_and_preprocess() != 0
    assert copy.read_bytes() == before
    assert plan_and_preprocess() == 0 and copy.read_bytes() == raw.read_bytes()


def test_plans_edited_by_hand_are_kept(own):
    folders = _Folders(own)
    folders.edit_plans(batch_size=17)
    assert plan_and_preprocess() == 0
    assert _Folders(own).configuration.batch_size == 17


@pytest.mark.parametrize("configurations", [["3d_fullres"], ["other", "3d_fullres"]], ids=str)
def test_a_folder_outside_the_data_set_is_not_replaced(own, capsys, configurations):
    folders = _Folders(own)
    plans = folders.base / "nnUNetPlans.json"
    content = json.loads(plans.read_text())
    whole = content["configurations"]["3d_fullres"]
    content["configurations"] |= {"other": whole | {"data_identifier": "other"}}
    content["configurations"]["3d_fullres"] = whole | {"data_identifier": "../Dataset999_Other/x"}
    plans.write_text(json.dumps(content))
    precious = own / "nnUNet_preprocessed" / "Dataset999_Other" / "x" / "precious.txt"
    precious.parent.mkdir(parents=True)
    precious.touch()
    assert command("plan_and_preprocess", "-c", *configurations, "-np", "1", "-npfp", "1") == 1
    assert "data_identifier" in capsys.readouterr().err
    assert precious.is_file() and not (folders.base / "other").exists()


def test_plans_of_another_data_set_are_kept(own, capsys):
    folders = _Folders(own)
    folders.edit_plans(batch_size=17)  # those that nnUNetv2_move_plans_between_datasets has put into an empty folder
    for file in folders.base.iterdir():
        if file.name != "nnUNetPlans.json":
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    assert plan_and_preprocess() == 0
    assert "moved from another data set" in capsys.readouterr().out
    assert _Folders(own).configuration.batch_size == 17
    assert (folders.base / "dataset_fingerprint.json").is_file() and len(times(folders.unlabeled)) > 1
    assert plan_and_preprocess() == 0
    assert _Folders(own).configuration.batch_size == 17


# ------------------------------------------------------------------------------------------------ other plans


def test_residual_encoder_plans_share_the_data_and_2d_gets_its_own(own, capsys):
    arguments = ("-c", "2d", "3d_fullres", "-pl", "nnUNetPlannerResEncM", "-np", "1", "-npfp", "1")
    before = times(_Folders(own).unlabeled)
    assert command("plan_and_preprocess", *arguments) == 0
    folders = _Folders(own, "nnUNetResEncUNetMPlans")
    assert times(folders.unlabeled) == before  # nnU-Net gives both plans one data identifier, and their data is equal
    folders.verify()
    two = _Folders(own, "nnUNetResEncUNetMPlans", "2d")
    two.verify()
    assert two.unlabeled.name == "nnUNetPlans_2d_unlabeled"


def test_a_configuration_that_inherits_is_preprocessed_to_its_own_identifier(own):
    file = _Folders(own).base / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["coarse"] = {
        "inherits_from": "3d_fullres",
        "data_identifier": "nnUNetPlans_coarse",
        "spacing": [2.0, 2.0, 2.0],
    }
    file.write_text(json.dumps(plans))
    assert preprocess_unlabeled("-c", "coarse") == 0
    folders = _Folders(own, configuration="coarse")
    folders.verify()
    dataset = infer_dataset_class(str(folders.unlabeled))(str(folders.unlabeled), ["unl_10"])
    assert dataset.load_case("unl_10")[0].shape == (1, 8, 12, 10)


def test_without_c_the_configurations_with_labeled_data_are_done(own):
    folders = _Folders(own)
    shutil.rmtree(folders.unlabeled)
    folders.manifest.unlink()
    assert preprocess_unlabeled() == 0
    folders.verify()
    assert not (folders.base / "nnUNetPlans_2d_unlabeled").exists()


def test_worker_processes_give_the_same_as_this_process(own):
    folders = _Folders(own)
    read = {}
    for processes in ("1", "2"):
        shutil.rmtree(folders.unlabeled)
        assert command("preprocess_unlabeled", "-np", processes) == 0
        dataset = infer_dataset_class(str(folders.unlabeled))(str(folders.unlabeled))
        read[processes] = {case: dataset.load_case(case)[0][:] for case in dataset.identifiers}
    assert sorted(read["1"]) == sorted(read["2"]) == sorted(UNLABELED)
    for case in UNLABELED:
        np.testing.assert_array_equal(read["1"][case], read["2"][case])


# ------------------------------------------------------------------------------------------------ splits


def test_a_different_split_is_not_replaced_without_overwrite(own, capsys):
    folders = _Folders(own)
    write_split(folders.raw, (["lab_0", "lab_1"], ["lab_2"]))
    assert preprocess_unlabeled() == 1
    assert "--overwrite" in capsys.readouterr().err
    assert len(load_splits(folders.base / "splits_final.json")[0]["train"]) == 4
    assert preprocess_unlabeled("--overwrite") == 0
    assert len(load_splits(folders.base / "splits_final.json")[0]["train"]) == 2
    assert (folders.base / "splits_final.json.1.bak").is_file()


def test_hidden_labels_are_kept_and_dropped_when_another_split_uses_the_cases(own, capsys):
    folders = _Folders(own)
    assert main(["split", "-d", "801", "--labeled", "2", "-np", "1", "--overwrite"]) == 0
    hidden = UnlabeledList.load(folders.base / "unlabeled.json").hidden_labels
    assert len(hidden["0"]) == 2
    assert preprocess_unlabeled() == 0
    assert UnlabeledList.load(folders.base / "unlabeled.json").hidden_labels == hidden
    write_split(folders.raw, (list(LABELED), list(LABELED)))
    assert preprocess_unlabeled("--overwrite") == 0
    assert "hidden labels of fold(s) 0" in capsys.readouterr().out
    assert UnlabeledList.load(folders.base / "unlabeled.json").hidden_labels == {}


def test_hidden_labels_alone_need_no_unlabeled_folder(own):
    folders = _Folders(own)
    shutil.rmtree(folders.raw / "imagesUn")
    assert main(["split", "-d", "801", "--labeled", "2", "-np", "1", "--overwrite"]) == 0
    assert preprocess_unlabeled() == 0
    assert UnlabeledList.load(folders.base / "unlabeled.json").unlabeled == {}


# ------------------------------------------------------------------------------------------------ bad input


def test_no_unlabeled_images_and_no_hidden_labels_is_an_error(own, capsys):
    shutil.rmtree(_Folders(own).raw / "imagesUn")
    assert preprocess_unlabeled() == 1
    said = capsys.readouterr().err
    assert "imagesUn" in said and "nnunet_ssl split" in said


def test_a_truncated_image_is_named_and_the_other_cases_are_kept(own, capsys):
    folders = _Folders(own)
    shutil.rmtree(folders.unlabeled)
    file = folders.raw / "imagesUn" / "unl_11_0000.nii.gz"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    for folder in (folders.base, folders.raw):
        os.utime(folder / "unlabeled.json")  # so that the hash in the list is still trusted
    assert preprocess_unlabeled() == 1
    said = capsys.readouterr().err
    assert "unl_11" in said and str(file) in said and "2 are finished and kept" in said
    assert not any(name.startswith("unl_11") for name in os.listdir(folders.unlabeled))
    folders.verify(["unl_10", "unl_12"])
    file.write_bytes(whole)
    before = times(folders.unlabeled)
    assert preprocess_unlabeled() == 0
    assert before.items() <= times(folders.unlabeled).items()
    folders.verify()


def test_a_new_truncated_image_is_named_before_anything_is_planned(own, capsys):
    file = _Folders(own).raw / "imagesTr" / "lab_2_0000.nii.gz"
    file.write_bytes(file.read_bytes()[:200])
    assert plan_and_preprocess() == 1
    said = capsys.readouterr().err
    assert "lab_2" in said and str(file) in said and "200 bytes" in said


def test_a_missing_channel_is_named(tmp_path, monkeypatch, capsys):
    use_folders(monkeypatch, tmp_path)
    folder = tmp_path / "nnUNet_raw" / NAME
    write_raw_dataset(folder, LABELED, UNLABELED, channels=2)
    (folder / "imagesUn" / "unl_11_0001.nii.gz").unlink()
    assert plan_and_preprocess() == 1
    said = capsys.readouterr().err
    assert str(folder / "imagesUn" / "unl_11_0001.nii.gz") in said and "0000, 0001" in said


def test_channels_of_different_shape_are_named(tmp_path, monkeypatch, capsys):
    use_folders(monkeypatch, tmp_path)
    folder = tmp_path / "nnUNet_raw" / NAME
    write_raw_dataset(folder, {"lab_0": 0}, {"unl_0": 1}, channels=2)
    write_image(phantom(0, (8, 8, 8))[0], folder / "imagesUn" / "unl_0_0001.nii.gz")
    assert plan_and_preprocess() == 1
    said = capsys.readouterr().err
    assert "unl_0_0000.nii.gz, unl_0_0001.nii.gz do not fit together" in said


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda raw: write_image(phantom(0)[0], raw / "imagesUn" / "case.nii.gz"), ["case.nii.gz", "CASE_XXXX.nii.gz"]),
        (lambda raw: write_image(phantom(0)[0], raw / "imagesUn" / "x_0000.nrrd"), ["x_0000.nrrd", "CASE_XXXX.nii.gz"]),
        (lambda raw: write_image(phantom(0)[0], raw / "imagesUn" / "lab_0_0000.nii.gz"), ["lab_0", "imagesTr"]),
        (lambda raw: (raw / "labelsTr" / "lab_0.nii.gz").unlink(), ["labelsTr", "lab_0.nii.gz", "imagesUn"]),
        (lambda raw: (raw / "dataset.json").unlink(), ["dataset.json", "does not exist"]),
        (lambda raw: (raw / "dataset.json").write_text("{}"), ["dataset.json", "file_ending"]),
        (lambda raw: shutil.rmtree(raw / "imagesTr"), ["imagesTr", "at least one labeled case"]),
    ],
)
def test_faults_of_the_raw_folder_are_named(own, capsys, spoil, words):
    spoil(_Folders(own).raw)
    assert preprocess_unlabeled() == 1
    said = capsys.readouterr().err
    assert all(word in said for word in words)


def test_a_label_of_another_shape_is_named_before_nnunet_reads_it(own, capsys):
    write_image(phantom(0)[1][:-2], own / "nnUNet_raw" / NAME / "labelsTr" / "lab_0.nii.gz")
    assert plan_and_preprocess("--no_pp") == 1
    said = capsys.readouterr().err
    assert "case lab_0" in said and "has the shape 20 x 24 x 14, the other has 20 x 24 x 16" in said


def test_a_setting_with_which_nnunet_cannot_plan_is_named(own, capsys, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    assert plan_and_preprocess("--no_pp") == 0  # the plans are there
    write_image(phantom(0)[1] * 0, own / "nnUNet_raw" / NAME / "labelsTr" / "lab_0.nii.gz")
    assert plan_and_preprocess("--no_pp") == 1
    assert "nnUNet_n_proc_DA is 0" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["splits_final", "dataset", "dataset_fingerprint", "nnUNetPlans_made_from"])
def test_plans_do_not_take_the_name_of_another_file(own, capsys, name):
    folder = own / "nnUNet_preprocessed" / NAME
    before = {file: file.read_bytes() for file in folder.glob("*.json")}
    assert command("plan_and_preprocess", "-c", "3d_fullres", "-overwrite_plans_name", name) == 1
    assert f"{name}.json is another file of the data set" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in folder.glob("*.json")} == before


def test_what_nnunets_own_check_refuses_is_one_sentence(own, capfd):
    image = own / "nnUNet_raw" / NAME / "labelsTr" / "lab_0.nii.gz"
    write_image(phantom(0)[1], image, (1.0, 1.0, 2.0))
    assert plan_and_preprocess("--no_pp", "--verify_dataset_integrity") == 1
    said = capfd.readouterr()
    assert "nnU-Net stopped in nnunetv2.experiment_planning.verify_dataset_integrity" in said.err
    assert "Spacing mismatch" in said.out and str(image) in said.out and "Traceback" not in said.err


def test_unknown_plans_configurations_and_planners_list_what_is_allowed(own, capsys):
    assert preprocess_unlabeled("-p", "otherPlans") == 1
    assert "Plans found: nnUNetPlans." in capsys.readouterr().err
    assert preprocess_unlabeled("-c", "3d") == 1
    assert "3d_fullres" in capsys.readouterr().err
    assert plan_and_preprocess("-pl", "MyPlanner") == 1
    assert "nnUNetPlannerResEncM" in capsys.readouterr().err
    assert plan_and_preprocess("-preprocessor_name", "MyPreprocessor") == 1
    assert "no preprocessor 'MyPreprocessor'" in capsys.readouterr().err
    assert main(["preprocess_unlabeled", "-d", "777"]) == 1
    assert "777" in capsys.readouterr().err


def test_a_full_disk_is_named_and_what_is_finished_is_kept(own, capsys, monkeypatch):
    import errno

    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    folders = _Folders(own)
    shutil.rmtree(folders.unlabeled)
    whole = DefaultPreprocessor.run_case_save

    def fail_on_second(self, output, *arguments):
        if output.endswith("unl_11"):
            Path(f"{output}.b2nd").write_bytes(b"as much as fits")
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(self, output, *arguments)

    monkeypatch.setattr(DefaultPreprocessor, "run_case_save", fail_on_second)
    assert preprocess_unlabeled() == 1
    said = capsys.readouterr().err
    assert "unl_11" in said and str(folders.unlabeled) in said and "space" in said
    assert sorted(os.listdir(folders.unlabeled)) == ["unl_10.b2nd", "unl_10.pkl", "unl_10_seg.b2nd"]
    assert not Path(f"{folders.unlabeled}.unfinished").exists()
    folders.verify(["unl_10"])


def test_a_dead_worker_ends_the_run_with_advice_on_memory():
    with pytest.raises(UserError, match=r"ran out of memory.*-np"):
        list(run_in_processes(os._exit, [(9,), (9,), (9,)], 2, "Dying", show_progress=False))
