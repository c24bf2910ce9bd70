"""Lists of a protocol, those that are shipped and those of the user, and the label budget."""

from __future__ import annotations

import pytest

from nnunet_ssl.dataset_conversion.case_lists import choose_labeled, read_list, read_split, shipped_list
from nnunet_ssl.errors import UserError
from tests.helpers.paths import shared_dir


@pytest.mark.parametrize(
    "text",
    [
        b"A\r\nB\r\n\r\nC",
        b"A,\nB,\nC,\n",
        b"\n\nA.h5\n  B.h5  \n\nC.h5",
        b"data/slices/A.h5\ndata/slices/B.nii.gz\nx\\y\\C.nrrd\n",
        b"\xef\xbb\xbfA\nB\nC\n",
        b"A/mri_norm2.h5\nB/mri_norm2.h5\nC/lgemri.nrrd\n",
    ],
)
def test_lists_are_read_whatever_their_line_ends_endings_and_paths(tmp_path, text):
    (tmp_path / "train.list").write_bytes(text)
    assert read_list(tmp_path / "train.list") == ["A", "B", "C"]


@pytest.mark.parametrize("text, found", [(b"A\nB\nA.h5\n", "A more than once"), (b"\r\n\n", "names no case")])
def test_a_repeated_entry_and_an_empty_list_are_refused(tmp_path, text, found):
    (tmp_path / "train.list").write_bytes(text)
    with pytest.raises(UserError, match=found) as error:
        read_list(tmp_path / "train.list")
    assert str(tmp_path / "train.list") in str(error.value)


def test_a_missing_and_a_binary_list_are_refused_by_name(tmp_path):
    (tmp_path / "train.list").write_bytes(b"\xff\xfe\x00A")
    for name, message in (("train.list", "is not a text file"), ("other.list", "does not exist")):
        with pytest.raises(UserError, match=f"{name} {message}"):
            read_list(tmp_path / name)


def test_split_lists_are_found_in_a_folder_and_by_the_names_of_files(tmp_path):
    for name, text in (("train.txt", "A\nB"), ("val.txt", "C"), ("my_test20.list", "D")):
        (tmp_path / name).write_text(text)
    (tmp_path / "train_slices.list").write_text("not this one")
    found = read_split([tmp_path, tmp_path / "my_test20.list"])
    assert (found.train, found.validation, found.test) == (["A", "B"], ["C"], ["D"])


def test_a_split_that_is_ambiguous_nameless_missing_or_without_train_list_is_refused(tmp_path):
    for name in ("train0.list", "train1.list", "other.list", "test.list"):
        (tmp_path / name).write_text("A")
    for paths, message in (
        ([tmp_path], "several lists for train: train0.list, train1.list"),
        ([tmp_path / "other.list"], "must contain one of train, val and test"),
        ([tmp_path / "train0.list", tmp_path / "train1.list"], "two lists for train"),
        ([tmp_path / "nowhere"], "no such file or folder"),
        ([tmp_path / "test.list"], "no train list"),
    ):
        with pytest.raises(UserError, match=message):
            read_split(paths)


def test_shipped_lists_are_the_protocols_and_share_no_case():
    sizes = {"la_train80": 80, "la_test20": 20, "acdc_train70": 70, "acdc_val10": 10, "acdc_test20": 20}
    lists = {name: shipped_list(f"{name}.list") for name in sizes}
    assert {name: len(entries) for name, entries in lists.items()} == sizes
    assert len({entry for entries in lists.values() for entry in entries}) == sum(sizes.values())


@pytest.mark.parametrize(
    "shipped, original",
    [
        ("la_train80", "la_standard_train80"),
        ("la_test20", "la_standard_test20"),
        ("acdc_train70", "acdc_ssl4mis_train_patients"),
        ("acdc_val10", "acdc_ssl4mis_val_patients"),
        ("acdc_test20", "acdc_ssl4mis_test_patients"),
    ],
)
def test_shipped_lists_keep_the_order_of_the_originals(shipped, original):
    assert shipped_list(f"{shipped}.list") == read_list(shared_dir("data", "tables", f"{original}.list"))


# --- the label budget -------------------------------------------------------------------------------------------------

PATIENTS = [f"p{number}" for number in (7, 3, 9, 1, 8, 2, 6, 4, 5, 0)]


@pytest.mark.parametrize(
    "labeled, number", [(None, 10), ("4", 4), ("0.2", 2), ("20%", 2), ("37.5%", 4), ("0.01", 1), ("1.0", 10), ("1", 1)]
)
def test_without_a_seed_the_first_patients_of_the_list_are_labeled(labeled, number):
    assert choose_labeled(PATIENTS, labeled) == PATIENTS[:number]


def test_a_seed_chooses_at_random_reproducibly_and_nested():
    three = choose_labeled(PATIENTS, "3", seed=0)
    assert three == choose_labeled(sorted(PATIENTS), "3", seed=0)
    assert set(three) < set(choose_labeled(PATIENTS, "5", seed=0))
    assert len({tuple(choose_labeled(PATIENTS, "3", seed=seed)) for seed in range(5)}) > 1


def test_a_list_names_the_labeled_patients(tmp_path):
    file = tmp_path / "labeled.txt"
    file.write_bytes(b"p9_frame01\r\np9_frame02\r\n\r\np3_frame01")
    assert choose_labeled(PATIENTS, str(file), to_patient=lambda entry: entry.split("_")[0]) == ["p9", "p3"]
    with pytest.raises(UserError, match="--seed 1 has nothing to choose"):
        choose_labeled(PATIENTS, str(file), seed=1)
    with pytest.raises(UserError, match=r"labeled.txt names 3 unknown case\(s\): p9_frame01"):
        choose_labeled(PATIENTS, str(file))


def test_a_seed_that_has_nothing_to_choose_is_refused():
    with pytest.raises(
        UserError, match="--seed 0 chooses among the labeled patients and does nothing without --labeled"
    ):
        choose_labeled(PATIENTS, None, seed=0)


def test_a_number_is_a_number_also_where_a_file_has_this_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "3").write_text("p9\n")
    (tmp_path / "0.2").mkdir()
    assert choose_labeled(PATIENTS, "3") == PATIENTS[:3] and choose_labeled(PATIENTS, "./3") == ["p9"]
    assert choose_labeled(PATIENTS, "0.2") == PATIENTS[:2]


@pytest.mark.parametrize(
    "labeled, message",
    [
        ("11", "11 labeled patients were asked for, the train list has 10 with a label. Ask for 1 to 10"),
        ("0", "Ask for 1 to 10"),
        ("1.5", "between 0 and 1"),
        ("0.0", "between 0 and 1"),
        ("few.txt", "neither a number nor a file that exists"),
    ],
)
def test_a_request_that_cannot_be_met_says_what_is_allowed(labeled, message):
    with pytest.raises(UserError, match=message):
        choose_labeled(PATIENTS, labeled)


@pytest.mark.parametrize("labeled", ["0%", "101%", "1.5.2%", "-10%", "10%%", "%", "nan", "1_0%"])
def test_what_is_no_share_is_refused(labeled):
    with pytest.raises(UserError, match=f"--labeled {labeled}: (a fraction lies|neither a number)"):
        choose_labeled(PATIENTS, labeled)
