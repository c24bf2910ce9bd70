"""Cases of a run: what is refused, what is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnunet_ssl.errors import UserError
from tests.helpers.training import copy_dataset, make_trainer, started

MEAN_TEACHER = "nnUNetTrainerMeanTeacher"


@pytest.fixture
def own_copy(datasets, tmp_path):
    """(folder, data set name, preprocessed folder) of a data set that the test may change."""
    out, dataset = datasets()
    out = copy_dataset(out, tmp_path / "data")
    return out, dataset, out / "nnUNet_preprocessed" / dataset


def edit_json(file, change):
    content = json.loads(file.read_text())
    changed = change(content)
    file.write_text(json.dumps(content if changed is None else changed))


def start(out, dataset, tmp_path, **attributes):
    return started(make_trainer(MEAN_TEACHER, out, dataset, results=tmp_path / "results", **attributes))


def test_without_unlabeled_list_the_message_names_the_command(own_copy, tmp_path):
    out, dataset, folder = own_copy
    (folder / "unlabeled.json").unlink()
    with pytest.raises(UserError, match=r"unlabeled.json does not exist.*nnunet_ssl preprocess_unlabeled -d 991 -c 2d"):
        start(out, dataset, tmp_path)


def test_without_unlabeled_cases_there_is_an_error(own_copy, tmp_path):
    out, dataset, folder = own_copy
    edit_json(folder / "unlabeled.json", lambda c: c.update(unlabeled={}))
    with pytest.raises(UserError, match="no unlabeled case for fold 0"):
        start(out, dataset, tmp_path)


def test_unlabeled_images_made_with_other_plans_are_refused(own_copy, tmp_path):
    out, dataset, folder = own_copy
    edit_json(folder / "nnUNetPlans.json", lambda p: p["configurations"]["2d"].update(spacing=[2.0, 2.0]))
    with pytest.raises(UserError, match="nnunet_ssl preprocess_unlabeled -d 991 -c 2d"):
        start(out, dataset, tmp_path)


def test_an_unfinished_unlabeled_folder_is_refused(own_copy, tmp_path):
    out, dataset, folder = own_copy
    edit_json(folder / "nnUNetPlans_2d_unlabeled.json", lambda m: m["cases"].pop("free_01") and None)
    with pytest.raises(UserError, match="free_01"):
        start(out, dataset, tmp_path)


def test_a_fold_that_the_file_lacks_is_refused(own_copy, tmp_path):
    out, dataset, _ = own_copy
    trainer = make_trainer(MEAN_TEACHER, out, dataset, fold=3, results=tmp_path)
    trainer.initialize()
    with pytest.raises(UserError, match=r"Fold 3 is not in .*splits_final.json, which has 1 fold"):
        trainer.on_train_start()


def test_fold_all_trains_on_all_labeled_cases(own_copy, tmp_path):
    out, dataset, _ = own_copy
    trainer = make_trainer(MEAN_TEACHER, out, dataset, fold="all", results=tmp_path)
    started(trainer)
    assert len(trainer.cases.train) == 4
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])


def test_fold_all_is_refused_when_labels_are_hidden(own_copy, tmp_path):
    out, dataset, folder = own_copy
    edit_json(folder / "unlabeled.json", lambda c: c.update(hidden_labels={"0": ["case_00"]}))
    trainer = make_trainer(MEAN_TEACHER, out, dataset, fold="all", results=tmp_path)
    trainer.initialize()
    with pytest.raises(UserError, match="hides labels"):
        trainer.on_train_start()


def test_a_missing_split_is_made_by_nnunet_or_refused(datasets, own_copy, tmp_path):
    out, dataset, folder = own_copy
    (folder / "splits_final.json").unlink()
    with pytest.raises(UserError, match="needs 5 labeled cases or more, found 4"):
        start(out, dataset, tmp_path)
    out, dataset = datasets(labeled=5)
    out = copy_dataset(out, tmp_path / "five")
    folder = out / "nnUNet_preprocessed" / dataset
    (folder / "splits_final.json").unlink()
    start(out, dataset, tmp_path)
    assert len(json.loads((folder / "splits_final.json").read_text())) == 5


def test_hidden_and_labeled_at_once_is_refused(own_copy, tmp_path):
    out, dataset, folder = own_copy
    edit_json(folder / "unlabeled.json", lambda c: c.update(hidden_labels={"0": ["case_00"]}))
    with pytest.raises(UserError, match="case_00 would be labeled training case"):
        start(out, dataset, tmp_path)


@pytest.mark.parametrize("place, case", [("labeled", "case_03"), ("test", "test_00")])
def test_an_unlabeled_image_that_is_a_validation_or_test_image_is_refused(place, case, own_copy, tmp_path):
    out, dataset, folder = own_copy

    def leak(content):
        content["unlabeled"]["free_02"]["sha256"] = content[place][case]["sha256"]

    edit_json(folder / "unlabeled.json", leak)
    edit_json(
        folder / "nnUNetPlans_2d_unlabeled.json",
        lambda m: m["cases"].update(
            free_02=json.loads((folder / "unlabeled.json").read_text())["unlabeled"]["free_02"]["sha256"]
        ),
    )
    with pytest.raises(UserError, match=rf"free_02 is the same image as {case}"):
        start(out, dataset, tmp_path)
    assert start(out, dataset, tmp_path, allow_transductive=True)


@pytest.mark.parametrize("case", ["case_03", "test_00"])
def test_unlabeled_images_of_validation_or_test_patients_are_left_out(case, own_copy, tmp_path):
    out, dataset, folder = own_copy
    edit_json(
        folder / "unlabeled.json",
        lambda c: c.update(groups={case: "p", "free_01": "p", "case_00": "q", "free_02": "q"}),
    )
    trainer = start(out, dataset, tmp_path)
    assert "free_01" not in (*trainer.cases.unlabeled, *trainer.cases.folders) and "free_02" in trainer.cases.unlabeled
    assert "1 unlabeled image(s) are of patients with validation or test cases" in Path(trainer.log_file).read_text()
    trainer = start(out, dataset, tmp_path / "transductive", allow_transductive=True)
    assert "free_01" in trainer.cases.unlabeled
    unlabeled = json.loads((folder / "unlabeled.json").read_text())["unlabeled"]
    edit_json(folder / "unlabeled.json", lambda c: c.update(groups=dict.fromkeys([case, *unlabeled], "p")))
    with pytest.raises(UserError, match="Fold 0: all unlabeled images are of patients"):
        start(out, dataset, tmp_path / "none")


def test_the_log_names_counts_and_split(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    log = Path(trainer.log_file).read_text()
    assert "labeled: 3, unlabeled: 3 (0 of them with hidden labels), validation: 1 cases; split" in log
    assert json.loads(Path(trainer.output_folder, "split.json").read_text())["hash"] in log
    assert "consistency_weight: 5.0" in log


def test_a_run_that_is_continued_stays_with_the_unlabeled_images_it_began_with(own_copy, tmp_path):
    out, dataset, folder = own_copy
    whole = (folder / "unlabeled.json").read_text()
    edit_json(folder / "unlabeled.json", lambda c: c["unlabeled"].pop("free_02") and None)
    file = str(tmp_path / "checkpoint.pth")
    start(out, dataset, tmp_path).save_checkpoint(file)
    (folder / "unlabeled.json").write_text(whole)  # an image is added
    edit_json(folder / "unlabeled.json", lambda c: c["unlabeled"].pop("free_01") and None)  # and one is taken away

    other = make_trainer(MEAN_TEACHER, out, dataset, results=tmp_path / "results")
    other.initialize()
    other.load_checkpoint(file)
    other.on_train_start()
    log = Path(other.log_file).read_text()
    assert "labeled: 3, unlabeled: 1 (0 of them" in log
    assert "1 image(s) of the list, such as free_02, were not there" in log and "start a new run" in log
    assert "1 unlabeled image(s) that this run began with are gone: free_01" in log
    assert other.unlabeled_pool == list(other.cases.folders) == ["free_00"]
    assert json.loads(Path(other.output_folder, "split.json").read_text())["unlabeled"] == ["free_00"]
    assert start(out, dataset, tmp_path).unlabeled_pool == ["free_00", "free_02"]  # a new run


@pytest.mark.parametrize("side", ["train", "val"])
def test_a_run_whose_split_has_changed_is_not_continued(side, own_copy, tmp_path):
    """Else what it had learned would be its validation, and its checkpoint would say that this was so from the start."""
    out, dataset, folder = own_copy
    trainer = start(out, dataset, tmp_path)
    file, record = str(tmp_path / "checkpoint.pth"), Path(trainer.output_folder, "split.json")
    trainer.save_checkpoint(file)
    trainer._release_lock()
    before = record.read_text()

    def change(splits):
        changed = splits[0]
        if side == "train":
            changed["train"].pop()
        else:  # a case for another, numbers stay
            changed["train"][0], changed["val"][0] = changed["val"][0], changed["train"][0]

    edit_json(folder / "splits_final.json", change)
    for use_unlabeled in (True, False):
        other = make_trainer(
            MEAN_TEACHER,
            out,
            dataset,
            results=tmp_path / "results",
            needs_unlabeled=use_unlabeled,
            allow_transductive=True,
        )
        other.initialize()
        other.load_checkpoint(file)
        with pytest.raises(UserError, match=r"split has changed.*training case\(s\) are.*split.json.*without --c"):
            other.on_train_start()
        assert record.read_text() == before
    assert start(out, dataset, tmp_path)  # a new run


def test_a_label_that_is_a_list_of_one_number_is_that_number(own_copy, tmp_path):
    out, dataset, folder = own_copy
    edit_json(folder / "dataset.json", lambda c: c["labels"].update({k: [v] for k, v in c["labels"].items() if v == 1}))
    trainer = started(make_trainer("nnUNetTrainerSemiSupervised", out, dataset, results=tmp_path / "results"))
    assert 1 in trainer.targets and "no labeled training case shows" not in Path(trainer.log_file).read_text()
