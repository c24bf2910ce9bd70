"""One rule for ids of cases and other names that become file names."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_ssl.data.names import (
    check_case_ids,
    check_ids_of_files,
    dataset_number,
    dataset_title,
    fault_of_name,
    plain_name,
)
from nnunet_ssl.errors import UserError
from tests.helpers.raw_data import write_image

GOOD = ["case_01", "Fall 3", "übung", "a.b.c", "fall [2]", "x_seg", "case,1", "a'b", "患者", "-d", "1"]
BAD = ["", " ", "a/b", "a\\b", "..", ".hidden", "../x", "/abs", "a\nb", "a\0b", " a", "a ", "\udcff", 3, None, ["a"]]


@pytest.mark.parametrize("name", GOOD)
def test_what_is_allowed(name):
    assert fault_of_name(name) is None and plain_name(name, "here") == name
    check_case_ids([name], "here")


@pytest.mark.parametrize("name", BAD, ids=repr)
def test_what_is_refused_with_its_place(name):
    with pytest.raises(UserError, match=r"^here: the name"):
        plain_name(name, "here")
    with pytest.raises(UserError, match=r"^here: 1 case id\(s\)"):
        check_case_ids(["case_01", name], "here")


@given(st.text())
def test_an_allowed_name_is_a_file_in_the_folder_and_nothing_else(tmp_path_factory, name):
    if fault_of_name(name) is None:
        folder = tmp_path_factory.mktemp("names")
        assert (folder / name).parent == folder and (folder / name).name == name


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["Case1", "case1"], "Case1 and case1 differ in upper and lower case"),
        (["u\u0308", "\u00fc"], "form of an accent"),
        (["x", "y", "x_seg"], "the cases x and x_seg"),
        (["X", "x_SEG"], "the cases X and X_seg"),
    ],
)
def test_ids_that_would_overwrite_each_other(ids, message):
    with pytest.raises(UserError, match=message):
        check_case_ids(ids, "here")
    for name in ids:
        check_case_ids([name], "here")


@pytest.mark.parametrize("name", ["x.nii", "x.NII", "x.nii.gz", "x.hdr", "a.img", "a.nia"])
def test_ids_that_simpleitk_shortens(tmp_path, name):
    write_image(np.zeros((2, 3, 4), np.uint8), tmp_path / f"{name}.nii.gz")
    assert not (tmp_path / f"{name}.nii.gz").exists()
    with pytest.raises(UserError, match="end like an image file"):
        check_ids_of_files(["y", name], ".nii.gz", "here")
    check_ids_of_files([name], ".nrrd", "here")


@pytest.mark.parametrize("name", ["x.nii.b", "x.gz", "a.nia.gz", "nii", "x.nrrd", "x.1"])
def test_ids_that_simpleitk_keeps(tmp_path, name):
    write_image(np.zeros((2, 3, 4), np.uint8), tmp_path / f"{name}.nii.gz")
    assert (tmp_path / f"{name}.nii.gz").exists()
    check_ids_of_files([name], ".nii.gz", "here")


@pytest.mark.parametrize(
    ("name", "number", "title"),
    [
        ("Dataset027_ACDC", "027", "ACDC"),
        ("Dataset1234_My_Data", "1234", "My_Data"),
        ("Dataset777", "777", "D777"),
        ("Dataset778_KiTS2023.v1+aug", "778", "KiTS2023_v1_aug"),
        ("Dataset5_å", "5", "D5"),
    ],
)
def test_number_and_title_of_a_data_set(name, number, title):
    assert (dataset_number(name), dataset_title(name)) == (number, title)
