"""The base of trainers for partial labels: which cases are drawn, what validation counts, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from nnunet_ssl.errors import UserError
from tests.helpers.synthetic import make_dataset
from tests.helpers.trainers import PARTIAL, next_batches, preprocess_dense_labels, stock_step
from tests.helpers.training import (
    copy_batch,
    copy_dataset,
    largest_difference,
    make_trainer,
    seed_everything,
    started,
    weights_of,
)

TRAINER = "nnUNetTrainerPartialLabel"


each_partial_trainer = pytest.mark.parametrize("name", PARTIAL)


@pytest.fixture
def copied(datasets, tmp_path):
    """A function that makes a private copy of a synthetic data set whose dataset.json has another key `partial_labels`."""

    def make(content, **options):
        out, dataset = datasets(unlabeled=0, **options)
        out = copy_dataset(out, tmp_path / "data")
        file = out / "nnUNet_preprocessed" / dataset / "dataset.json"
        dataset_json = json.loads(file.read_text())
        if content is None:
            dataset_json.pop("partial_labels", None)
        else:
            dataset_json["partial_labels"] = content
        file.write_text(json.dumps(dataset_json))
        return out, dataset

    return make


def log_of(folder) -> str:
    return "\n".join(file.read_text() for file in folder.rglob("training_log*.txt"))


@each_partial_trainer
@pytest.mark.parametrize("options", [{}, {"regions": True}, {"ignore": True}], ids=str)
def test_with_everything_annotated_step_and_validation_are_nnunets_bit_for_bit(name, options, copied, tmp_path):
    out, dataset = copied({"default": "all"}, **options)
    trainer = make_trainer(name, out, dataset, results=tmp_path / "a")
    if options.get("regions") and "regions" in trainer.unsupported:
        with pytest.raises(NotImplementedError, match="regions overlap"):
            trainer.initialize()
        return
    started(trainer)
    assert "training is nnU-Net's own" in log_of(tmp_path / "a")
    trainer.iteration = 3 * trainer.num_epochs * trainer.num_iterations_per_epoch // 4
    start = weights_of(trainer.network)
    seed_everything(3)
    (batch,) = next_batches(trainer)
    loss = trainer.train_step(copy_batch(batch))["loss"]
    expected, expected_loss = stock_step(out, dataset, tmp_path / "b", start, batch)
    assert largest_difference(expected, weights_of(trainer.network)) == 0
    assert loss == expected_loss
    if trainer.labeled_view_names:
        return  # views of a patch are drawn in another order than its intensities in nnU-Net
    # the same batch as nnU-Net's own loader draws: equal sources are not resampled
    stock = make_trainer("nnUNetTrainer", out, dataset, results=tmp_path / "b")
    stock.initialize(), stock.on_train_start()
    seed_everything(3)
    theirs = next(stock.dataloader_train)
    assert torch.equal(theirs["data"], batch["data"]) and list(theirs["keys"]) == list(batch["keys"])


def test_annotated_columns_follow_the_regions_of_the_network(datasets, tmp_path):
    out, dataset = datasets(partial=True, unlabeled=0, regions=True)
    trainer = started(make_trainer(TRAINER, out, dataset, results=tmp_path))
    assert trainer.targets == [(1, 2), 2]
    found = trainer.annotated_in(["case_00", "case_01", "case_02"])
    assert found.tolist() == [[True, False], [False, True], [True, True]]


def test_cases_are_drawn_by_the_size_of_their_source(datasets, tmp_path):
    out, dataset = datasets(partial=True, unlabeled=0)
    trainer = started(make_trainer(TRAINER, out, dataset, results=tmp_path))
    loader = trainer.dataloader_train.data_loader.labeled
    # case_00 is a source of its own, case_01 and case_02 have none
    weights = np.array([1, 2**-0.5, 2**-0.5])
    assert list(loader.indices) == ["case_00", "case_01", "case_02"]
    np.testing.assert_allclose(loader.sampling_probabilities, weights / weights.sum())
    seed_everything()
    drawn = [key for _ in range(3000) for key in loader.get_indices()]
    assert drawn.count("case_00") / len(drawn) == pytest.approx(1 / (1 + 2**0.5), abs=0.02)
    for sampling, expected in (("uniform", None), ("class_balanced", None)):
        other = started(make_trainer(TRAINER, out, dataset, results=tmp_path / sampling, sampling=sampling))
        found = other.dataloader_train.data_loader.labeled.sampling_probabilities
        if sampling == "uniform":
            assert found is expected
        else:  # both classes are annotated in two cases, case_02 has both
            np.testing.assert_allclose(found, [0.25, 0.25, 0.5])
    assert trainer.dataloader_val.data_loader.labeled.sampling_probabilities is None


def with_partial_validation(copied, **options):
    """The validation case annotates label 1 (or the whole) only; its label map still has label 2, as a careless data set may."""
    first = "whole" if options.get("regions") else "organ"
    second = "lesion"
    content = {"cases": {"case_00": [first], "case_01": [second], "case_03": [first, second]}}
    out, dataset = copied(content, partial=True, **options)
    return out, dataset, first


@pytest.mark.parametrize("options", [{}, {"regions": True}, {"ignore": True}], ids=str)
def test_the_pseudo_dice_is_nnunets_where_a_class_is_annotated_and_leaves_out_the_rest(options, copied, tmp_path):
    out, dataset, first = with_partial_validation(copied, **options)
    trainer = started(make_trainer(TRAINER, out, dataset, results=tmp_path / "a"))
    assert not trainer.everything_annotated
    stock = make_trainer("nnUNetTrainer", out, dataset, results=tmp_path / "b")
    stock.initialize()
    stock.network.load_state_dict(weights_of(trainer.network))
    (batch,) = [next(trainer.dataloader_val)]
    trainer.on_validation_epoch_start(), stock.network.eval()
    with torch.no_grad():
        expected = stock.validation_step(copy_batch(batch))
        found = trainer.validation_step(copy_batch(batch))
        trainer.partial.cases["case_03"] = frozenset({first})
        restricted = trainer.validation_step(copy_batch(batch))
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    for count in ("tp_hard", "fp_hard", "fn_hard"):
        np.testing.assert_array_equal(found[count], expected[count])
        assert restricted[count][0] == expected[count][0] and restricted[count][1] == 0
    assert expected["fp_hard"][1] + expected["fn_hard"][1] > 0
    trainer.on_validation_epoch_end([restricted])
    dice = trainer.logger.get_value("dice_per_class_or_region", step=-1)
    assert np.isfinite(dice[0]) and np.isnan(dice[1])
    assert trainer.logger.get_value("mean_fg_dice", step=-1) == dice[0]


def test_the_final_validation_has_a_second_summary_of_what_is_annotated(copied, tmp_path, pools_of_threads):
    out, dataset, first = with_partial_validation(copied)
    trainer = started(make_trainer(TRAINER, out, dataset, results=tmp_path / "a"))
    trainer.partial.cases["case_03"] = frozenset({first})
    trainer.perform_actual_validation()
    (full,), (annotated,) = (list((tmp_path / "a").rglob(f)) for f in ("summary.json", "summary_annotated.json"))
    full, annotated = json.loads(full.read_text()), json.loads(annotated.read_text())
    assert annotated["metric_per_case"][0]["metrics"]["1"] == full["metric_per_case"][0]["metrics"]["1"]
    assert all(np.isnan(v) for v in annotated["metric_per_case"][0]["metrics"]["2"].values())
    assert annotated["mean"]["1"] == full["mean"]["1"] and np.isnan(annotated["mean"]["2"]["Dice"])
    assert annotated["foreground_mean"]["Dice"] == full["mean"]["1"]["Dice"] != full["foreground_mean"]["Dice"]
    assert "Over annotated classes of each case only" in log_of(tmp_path / "a")


def test_dense_labels_of_the_validation_cases_count_with_all_classes(tmp_path):
    out = tmp_path / "data"
    dataset = make_dataset(out, unlabeled=0, partial=True, dense=True, configurations=("2d",))
    file = out / "nnUNet_preprocessed" / dataset / "splits_final.json"
    file.write_text(json.dumps([{"train": ["case_01", "case_02", "case_03"], "val": ["case_00"]}]))
    trainer = started(make_trainer(TRAINER, out, dataset, results=tmp_path / "a"))
    assert not any((next(trainer.dataloader_val)["target"][0] == 2).any() for _ in range(4))
    assert "Validation is against the partial labels" in log_of(tmp_path / "a")
    preprocess_dense_labels(dataset)
    trainer = started(make_trainer(TRAINER, out, dataset, results=tmp_path / "b"))
    batch = next(batch for batch in iter(lambda: next(trainer.dataloader_val), None) if (batch["target"][0] == 2).any())
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        found = trainer.validation_step(batch)
    assert found["tp_hard"][1] + found["fn_hard"][1] == (batch["target"][0] == 2).sum()
    assert "against the dense labels of" in log_of(tmp_path / "b")


def test_what_is_annotated_and_what_occurs_is_logged(datasets, tmp_path):
    out, dataset = datasets(partial=True, unlabeled=0)
    started(make_trainer(TRAINER, out, dataset, results=tmp_path))
    log = log_of(tmp_path)
    for name in ("organ", "lesion"):
        assert f"{name}: annotated in 2 of 3 training cases, occurs in 2" in log


@pytest.mark.parametrize(
    "content, message",
    [
        (None, r"dataset.json has no key 'partial_labels'.*nnunet_ssl merge"),
        ({"default": ["organ"]}, r"label map of case case_01 holds 'lesion' \(label 2\).*there: organ"),
        ({"cases": {"case_00": ["organ"], "case_1": ["lesion"]}}, "names case_1, which is no case"),
        ({"cases": {f"case_0{i}": [] for i in range(4)}}, "holds 'organ'"),
    ],
    ids=["missing", "stored", "unknown", "nothing"],
)
def test_a_table_that_contradicts_the_cases_is_refused_at_the_start(content, message, copied, tmp_path):
    out, dataset = copied(content, partial=True)
    with pytest.raises(UserError, match=message):
        started(make_trainer(TRAINER, out, dataset, results=tmp_path))


def test_a_class_that_no_training_case_annotates_is_refused(copied, tmp_path):
    content = {"cases": {"case_00": ["organ"], "case_01": ["lesion"]}}
    out, dataset = copied(content, partial=True)
    file = out / "nnUNet_preprocessed" / dataset / "splits_final.json"
    file.write_text(json.dumps([{"train": ["case_00"], "val": ["case_01", "case_02"]}]))
    with pytest.raises(UserError, match="'lesion' is annotated in none of the 1 training cases of this fold"):
        started(make_trainer(TRAINER, out, dataset, results=tmp_path))
