"""Plans are read as nnU-Net writes them, and what is no plans is named by file and key."""

from __future__ import annotations

import json

import pytest

from nnunet_ssl.data.plans_file import read_plans
from nnunet_ssl.errors import UserError
from tests.helpers.synthetic import make_plans

PLANS = make_plans("Dataset991_Synthetic")


def test_plans_are_read_unchanged(tmp_path):
    file = tmp_path / "nnUNetPlans.json"
    file.write_text(json.dumps(PLANS))
    assert read_plans(file, "Plan again.") == PLANS


@pytest.mark.parametrize("key", ["configurations", "plans_name", "dataset_name", "image_reader_writer"])
@pytest.mark.parametrize("found", [None, 3, ["x"], {"2d": 4}])
def test_what_is_in_place_of_a_key_is_named(tmp_path, key, found):
    file = tmp_path / "nnUNetPlans.json"
    for content in ({**PLANS, key: found}, {name: value for name, value in PLANS.items() if name != key}):
        file.write_text(json.dumps(content))
        with pytest.raises(UserError, match=rf"nnUNetPlans\.json: key '{key}' is .*Plan again\."):
            read_plans(file, "Plan again.")


def test_a_reader_that_nnunet_does_not_have_is_named(tmp_path):
    file = tmp_path / "nnUNetPlans.json"
    file.write_text(json.dumps({**PLANS, "image_reader_writer": "NoIO"}))
    with pytest.raises(UserError, match=r"nnUNetPlans\.json: key 'image_reader_writer': .*NoIO.*Plan again\."):
        read_plans(file, "Plan again.")
