"""Where preprocessed cases lie, what they were made with, and which of them are complete."""

from __future__ import annotations

import json

import pytest

from nnunet_ssl.errors import UserError
from nnunet_ssl.preprocessing.preprocessed import (
    FORMAT,
    complete_cases,
    configuration_name,
    get_configuration,
    load_manifest,
    load_plans,
    manifest_file,
    preprocessing_hash,
    unlabeled_folder,
)
from tests.helpers.synthetic import make_dataset


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The preprocessed folder of a data set."""
    root = tmp_path_factory.mktemp("data")
    return root / "nnUNet_preprocessed" / make_dataset(root, unlabeled=0)


def test_missing_plans_are_named_with_those_that_exist_and_the_command(base):
    assert load_plans(base, "nnUNetPlans").plans_name == "nnUNetPlans"
    with pytest.raises(UserError, match=r"otherPlans\.json does not exist. Plans found: nnUNetPlans") as error:
        load_plans(base, "otherPlans")
    assert f"`nnunet_ssl plan_and_preprocess -d {base.name[7:10]}`" in str(error.value)


def test_a_configuration_is_found_by_name_and_named_again(base):
    plans = load_plans(base, "nnUNetPlans")
    found = get_configuration(plans, "2d")
    assert configuration_name(plans, found) == "2d"
    with pytest.raises(UserError, match=r"have no configuration '3d'\. Allowed: .*2d"):
        get_configuration(plans, "3d")


def test_folder_and_manifest_lie_beside_nnunets_own(base):
    configuration = get_configuration(load_plans(base, "nnUNetPlans"), "2d")
    identifier = configuration.data_identifier
    assert unlabeled_folder(base, configuration) == str(base / f"{identifier}_unlabeled")
    assert manifest_file(base, configuration, "dense") == str(base / f"{identifier}_dense.json")


def test_the_hash_depends_on_what_reaches_the_voxels_only(base):
    def hash_with(**changes) -> str:
        plans = load_plans(base, "nnUNetPlans")
        plans.plans["configurations"]["2d"].update(changes)
        return preprocessing_hash(plans, plans.get_configuration("2d"))

    first = hash_with()
    assert hash_with(batch_size=17, patch_size=[8, 8]) == first
    assert hash_with(normalization_schemes=["NoNormalization"]) != first
    assert hash_with(preprocessor_name="Other") != first


def test_a_case_is_complete_with_properties_image_and_segmentation(tmp_path):
    assert complete_cases(tmp_path / "missing") == set()
    for name in ("a.pkl", "a.b2nd", "a_seg.b2nd", "b.pkl", "b.b2nd", "c.b2nd", "c_seg.b2nd", "d.pkl", "d.npz"):
        (tmp_path / name).touch()
    assert complete_cases(tmp_path) == {"a", "d"}


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 0}', json.dumps({"format": FORMAT, "cases": {}})])
def test_a_file_that_is_no_manifest_means_that_nothing_is_finished(tmp_path, text):
    file = tmp_path / "x_unlabeled.json"
    assert load_manifest(file) is None
    file.write_text(text)
    assert load_manifest(file) is None
    content = {"format": FORMAT, "preprocessing_hash": "", "plans_name": "", "configuration": "", "cases": {}}
    file.write_text(json.dumps(content))
    assert load_manifest(file) == content


@pytest.mark.parametrize("cases", [{"../../x": "hash"}, {"/x": "hash"}, ["a"], "a", {"": "hash"}], ids=str)
def test_a_manifest_names_no_files_elsewhere(tmp_path, cases):
    content = {
        "format": FORMAT,
        "preprocessing_hash": "h",
        "plans_name": "p",
        "configuration": "2d",
        "cases": {"a": "h"},
    }
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(content))
    assert load_manifest(file) == content
    file.write_text(json.dumps(content | {"cases": cases}))
    assert load_manifest(file) is None


def test_an_identifier_that_leads_elsewhere_is_refused_before_nnunet_deletes_its_folder(base):
    plans = load_plans(base, "nnUNetPlans")
    plans.plans["configurations"]["2d"]["data_identifier"] = "../../x"
    with pytest.raises(UserError, match=r'2d, data_identifier: the name "\.\./\.\./x" has a path separator'):
        get_configuration(plans, "2d")
    with pytest.raises(UserError, match=r'^-p: the name "\.\./plans"'):
        load_plans(base, "../plans")
