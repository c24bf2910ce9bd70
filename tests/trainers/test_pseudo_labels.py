"""Pseudo labels of a round: which round, how its labels reach the step, what does not count, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_ssl.errors import UserError
from nnunet_ssl.preprocessing.round_prediction import Model
from nnunet_ssl.preprocessing.rounds import Round
from tests.helpers.synthetic import SHAPE, add_to_round
from tests.helpers.trainers import hide_labels, next_batches, run_steps
from tests.helpers.training import copy_dataset, make_trainer, started

NAME = "nnUNetTrainerPseudoLabels"
IGNORE = 3


def make(datasets, tmp_path, configuration="2d", options=None, **attributes):
    out, dataset = datasets(pseudo_labels=True, **(options or {}))
    return started(make_trainer(NAME, out, dataset, configuration, results=tmp_path / "results", **attributes))


@pytest.fixture
def own(datasets, tmp_path):
    """A private copy of the data set with one round, and its name."""
    out, dataset = datasets(pseudo_labels=True)
    return copy_dataset(out, tmp_path / "own"), dataset


def student(own, tmp_path, **attributes):
    return make_trainer(NAME, *own, "2d", results=tmp_path / "results", **attributes)


def round_folder(own, name="round1"):
    return own[0] / "nnUNet_preprocessed" / own[1] / "pseudo_labels" / name


def ball(value=1) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:15, 10:30, 10:30] = value
    return labels


def log_of(trainer) -> str:
    return open(trainer.log_file).read()


# ------------------------------------------------------------------------------------------------------------ the weight


def test_the_weight_is_the_share_of_the_pseudo_labeled_cases(datasets, tmp_path):
    trainer = make(datasets, tmp_path)
    assert len(trainer.unlabeled_pool) == 3 and len(trainer.cases.train) == 3
    assert trainer.weights() == {"pseudo": 0.5}
    trainer.set_unlabeled_cases(["free_00"])
    assert trainer.weights() == {"pseudo": 0.25}
    assert make(datasets, tmp_path, pseudo_weight=0.1).weights() == {"pseudo": 0.1}


def test_the_last_part_of_the_run_is_on_labeled_patches_alone(datasets, tmp_path):
    attributes = {"num_epochs": 10, "num_iterations_per_epoch": 10}
    trainer = make(datasets, tmp_path, final_labeled_fraction=0.09, **attributes)
    weights = []
    for trainer.iteration in (0, 90, 91, 99, 100):
        weights.append(trainer.weights()["pseudo"])
    assert weights == [0.5, 0.5, 0, 0, 0]
    trainer.iteration = 95
    (batch,) = next_batches(trainer)
    batch["unlabeled"].fill_(float("nan"))
    assert np.isfinite(trainer.train_step(batch)["loss"])
    trainer = make(datasets, tmp_path, **attributes)
    trainer.iteration = 100
    assert trainer.weights() == {"pseudo": 0.5}


# ------------------------------------------------------------------------------------------------------------- the labels


@pytest.mark.parametrize("blank", [0.0, 1.0])
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_patches_come_with_the_labels_of_the_round(datasets, tmp_path, configuration, blank):
    trainer = make(datasets, tmp_path, configuration, blank=blank)
    batches = next_batches(trainer, 4)
    for batch in batches:
        assert "inside" not in batch and {str(key) for key in batch["unlabeled_keys"]} <= set(trainer.unlabeled_pool)
        for of_labeled, of_unlabeled in zip(batch["target"], batch["unlabeled_target"], strict=True):
            assert of_labeled.shape == of_unlabeled.shape and of_labeled.dtype == of_unlabeled.dtype
    seen = {int(v) for batch in batches for v in batch["unlabeled_target"][0].unique()}
    assert seen == {0, 1, 2, IGNORE}


@pytest.mark.parametrize("blank", [0.0, 1.0])
def test_rectangles_are_hidden_from_pseudo_labeled_patches_alone(datasets, tmp_path, blank):
    trainer = make(datasets, tmp_path, blank=blank)
    smallest = tuple(size // 10 for size in trainer.configuration_manager.patch_size)

    def hidden(image: torch.Tensor) -> bool:
        """Whether a window of the smallest rectangle has one value (0: outside of the image)."""
        windows = np.lib.stride_tricks.sliding_window_view(image[0].numpy(), smallest)
        return bool(((np.ptp(windows, axis=(2, 3)) == 0) & (windows[..., 0, 0] != 0)).any())

    batches = next_batches(trainer, 8)
    labeled, unlabeled = ([hidden(image) for batch in batches for image in batch[key]] for key in ("data", "unlabeled"))
    # nnU-Net's lower resolution, of a quarter of the patches, makes small windows of one value as well
    assert np.mean(labeled) < 0.5
    assert all(unlabeled) if blank else np.mean(unlabeled) < 0.5


def test_without_augmentation_a_patch_is_a_piece_of_the_round(datasets, tmp_path):
    """Image and label of a patch lie at one place of one case."""
    trainer = make(datasets, tmp_path, "3d_fullres")
    loader = trainer.dataloader_train.data_loader.unlabeled
    loader.transforms = None
    loader.patch_size = loader.final_patch_size
    loader.need_to_pad = np.zeros(3, int)
    batch = next(loader)
    for image, labels, key in zip(batch["data"], batch["target"], batch["keys"]):
        of_case, of_round, _, _ = loader._data.load_case(key)
        windows = np.lib.stride_tricks.sliding_window_view(of_case[0], image.shape[1:])
        at = np.argwhere((windows == image[0].numpy()).all(axis=(3, 4, 5)))
        assert len(at) == 1
        piece = tuple(slice(start, start + size) for start, size in zip(at[0], image.shape[1:]))
        np.testing.assert_array_equal(labels[0], of_round[0][piece])


def test_foreground_is_oversampled_as_in_labeled_patches(datasets, tmp_path):
    trainer = make(datasets, tmp_path, oversample_foreground_percent=1.0)
    loader = trainer.dataloader_train.data_loader.unlabeled
    loader.transforms = None
    centers = set()
    for _ in range(10):
        for target in next(loader)["target"]:
            centers.add(int(target[0, target.shape[1] // 2, target.shape[2] // 2]))
            assert ((target == 1) | (target == 2)).any()
    # a patch at the border of the image is moved inside, so its center may be anything
    assert centers & {1, 2}


def test_sparse_labels_do_not_make_dense_pseudo_labels_sparse(datasets, tmp_path):
    trainer = make(datasets, tmp_path, options={"ignore": True})
    two = trainer.dataloader_train.data_loader
    assert two.labeled.has_ignore and not two.unlabeled.has_ignore
    assert trainer.with_ignore.ignore_label == IGNORE == trainer.label_manager.ignore_label


def test_the_loader_reaches_worker_processes(datasets, tmp_path):
    trainer = make(datasets, tmp_path)
    loader = pickle.loads(pickle.dumps(trainer.dataloader_train.data_loader.unlabeled))
    assert next(loader)["data"].shape == (2, 1, 24, 24)


@pytest.mark.parametrize("options", [{}, {"regions": True}, {"ignore": True}], ids=str)
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_undecided_voxels_do_not_count_and_all_others_do(datasets, tmp_path, options, deep_supervision):
    trainer = make(datasets, tmp_path, options=options, enable_deep_supervision=deep_supervision)
    (batch,) = next_batches(trainer)
    target = batch["unlabeled_target"]
    highest = target[0] if deep_supervision else target
    undecided = highest[:, -1:].bool() if "regions" in options else highest == IGNORE
    assert undecided.any() and not undecided.all()
    scales = target if deep_supervision else [target]
    heads = trainer.label_manager.num_segmentation_heads
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(2, heads, *s.shape[2:], generator=generator, requires_grad=True) for s in scales]
    loss = trainer.pseudo_loss(logits if deep_supervision else logits[0], target)
    (gradient,) = torch.autograd.grad(loss, logits[:1])
    assert gradient[undecided.expand_as(gradient)].abs().max() == 0
    assert gradient[~undecided.expand_as(gradient)].abs().min() > 0


@pytest.mark.parametrize("regions", [False, True])
def test_where_all_is_decided_the_loss_is_nnunets(datasets, tmp_path, regions):
    trainer = make(datasets, tmp_path, options={"regions": regions})
    (batch,) = next_batches(trainer)
    target = batch["target"]
    logits = [torch.randn(2, trainer.label_manager.num_segmentation_heads, *t.shape[2:]) for t in target]
    decided = [torch.cat((t, torch.zeros_like(t[:, :1])), 1) for t in target] if regions else target
    torch.testing.assert_close(trainer.pseudo_loss(logits, decided), trainer.loss(logits, target))
    assert trainer.label_manager.ignore_label is None


def test_both_losses_come_from_one_forward_pass(datasets, tmp_path):
    trainer = make(datasets, tmp_path)
    passes = []
    trainer.network.register_forward_hook(lambda module, inputs, output: passes.append(len(inputs[0])))
    values = run_steps(trainer, next_batches(trainer))[0]
    assert passes == [4]
    assert values["loss"] == pytest.approx(values["labeled"] + 0.5 * values["pseudo"], rel=1e-5)


# -------------------------------------------------------------------------------------------------------------- the round


def test_the_newest_round_is_used_unless_one_is_named(own, tmp_path):
    add_to_round(*own, {"free_01": ball()}, round_name="another", finished="2026-02-01T00:00:00+00:00")
    add_to_round(*own, {"free_02": ball()}, round_name="zzz", finished="2025-02-01T00:00:00+00:00")
    trainer = started(student(own, tmp_path))
    assert trainer.used.name == "another" and trainer.unlabeled_pool == ["free_01"]
    assert "1 of 1 cases" in log_of(trainer)
    assert started(student(own, tmp_path, round_name="round1")).used.name == "round1"
    with pytest.raises(UserError, match=r"no finished round 'round9' .*finished: zzz, round1, another"):
        started(student(own, tmp_path, round_name="round9"))


def test_a_run_that_is_continued_stays_with_its_round(own, tmp_path):
    trainer = started(student(own, tmp_path))
    file = str(tmp_path / "checkpoint.pth")
    trainer.save_checkpoint(file)
    add_to_round(*own, {"free_01": ball()}, round_name="round2", finished="2026-02-01T00:00:00+00:00")
    other = student(own, tmp_path)
    other.initialize()
    other.load_checkpoint(file)
    other.on_train_start()
    assert other.used.name == "round1" and other.unlabeled_pool == trainer.unlabeled_pool
    add_to_round(*own, {"free_01": ball()})  # other labels under the name of the round
    other = student(own, tmp_path)
    other.initialize()
    other.load_checkpoint(file)
    with pytest.raises(UserError, match=r"other labels than those this run started with.*without --c"):
        other.on_train_start()


def test_dropped_cases_are_not_drawn(own, tmp_path):
    made = Round.load(round_folder(own))
    made.cases["free_01"] = type(made.cases["free_01"])(False, "unstable", "", "")
    made.save()
    trainer = started(student(own, tmp_path))
    assert trainer.unlabeled_pool == ["free_00", "free_02"]
    assert {str(k) for batch in next_batches(trainer, 8) for k in batch["unlabeled_keys"]} == {"free_00", "free_02"}


def test_a_round_without_any_kept_case_is_refused_with_what_can_be_done(own, tmp_path):
    made = Round.load(round_folder(own))
    made.cases = {case: type(found)(False, "unstable", "", "") for case, found in made.cases.items()}
    made.save()
    with pytest.raises(
        UserError, match=r"round1 keeps no case.*pseudo_label -d 991 .*Or remove this folder.*round_name"
    ):
        started(student(own, tmp_path))


def test_labels_of_cases_that_are_labeled_in_the_fold_are_refused(own, tmp_path):
    folder = own[0] / "nnUNet_preprocessed" / own[1]
    files = [folder / "unlabeled.json", folder / "splits_final.json"]
    before = [file.read_text() for file in files]
    hide_labels(folder, ["case_00"])
    assert "case_00" in started(student(own, tmp_path)).unlabeled_pool
    for file, text in zip(files, before, strict=True):
        file.write_text(text)
    with pytest.raises(UserError, match=r"case_00, labeled or test case.*nnunet_ssl pseudo_label -d 991 -c 2d"):
        started(student(own, tmp_path))


def test_images_of_validation_patients_are_left_out_of_a_round(own, tmp_path):
    file = own[0] / "nnUNet_preprocessed" / own[1] / "unlabeled.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"groups": {"free_00": "one", "case_03": "one"}}))
    trainer = started(student(own, tmp_path))
    assert trainer.unlabeled_pool == ["free_01", "free_02"]
    assert "are left out: free_00" in log_of(trainer) and "round1: 2 of 3 cases" in log_of(trainer)


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        (None, {"background": 0, "organ": 1, "lesion": 2, "vessel": 3}),  # 3 would no longer be undecided
        ({"background": 0, "organ": 1, "lesion": 2}, {"background": 0, "lesion": 1, "organ": 2}),
    ],
)
def test_a_round_of_other_classes_is_refused(own, tmp_path, classes, labels):
    made = Round.load(round_folder(own))
    made.classes = classes
    made.save()
    assert started(student(own, tmp_path)).unlabeled_pool
    file = own[0] / "nnUNet_preprocessed" / own[1] / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"labels": labels}))
    with pytest.raises(UserError, match=r"round\.json: the round was made for .*pseudo_label` with -o NAME"):
        started(student(own, tmp_path))


def test_a_changed_image_stale_labels_and_no_round_are_refused(own, tmp_path):
    folder = own[0] / "nnUNet_preprocessed" / own[1]
    made = Round.load(round_folder(own))
    made.cases["free_00"] = type(made.cases["free_00"])(True, "", made.cases["free_00"].label, "another image")
    made.save()
    with pytest.raises(UserError, match="images of free_00 have changed"):
        started(student(own, tmp_path))
    made.cases["free_00"] = type(made.cases["free_00"])(True, "", "another label", made.cases["free_01"].image)
    made.cases["free_00"] = type(made.cases["free_00"])(True, "", "another label", _image(folder, "free_00"))
    made.save()
    with pytest.raises(UserError, match=r"nnUNetPlans_2d_pseudo is missing.*preprocess_unlabeled -d 991 -c 2d"):
        started(student(own, tmp_path))
    made.finished = None
    made.save()
    with pytest.raises(UserError, match="finished: none, unfinished: round1"):
        started(student(own, tmp_path))
    (round_folder(own) / "round.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match="is not the description of a round"):
        started(student(own, tmp_path))
    (round_folder(own) / "round.json").unlink()
    with pytest.raises(UserError, match=r"round\.json does not exist"):
        started(student(own, tmp_path))


def _image(folder, case) -> str:
    return json.loads((folder / "unlabeled.json").read_text())["unlabeled"][case]["sha256"]


def test_a_teacher_that_knows_the_validation_cases_is_named(own, tmp_path):
    made = Round.load(round_folder(own))
    made.trained_on = ["case_00", "case_03"]
    made.save()
    trainer = started(student(own, tmp_path))
    assert "were trained on case_03, validation case(s) of this fold" in log_of(trainer)
    file = Path(trainer.output_folder, "split.json")
    assert json.loads(file.read_text())["seen_val"] == ["case_03"] == trainer.cases.record()["seen_val"]
    # whoever labels with this network knows them too
    model = Model(file.parents[1], NAME, "nnUNetPlans", "2d", (0,))
    assert model.seen_validation() == {"case_03"}
    made.trained_on = ["case_00"]
    made.save()
    assert "seen_val" not in started(student(own, tmp_path)).cases.record()


def test_names_with_suffixes_and_pretrained_weights(own, tmp_path):
    """Rounds differ in their seed, and so in their results folder."""
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    name = f"{NAME}_3epochs_2iters_seed1"
    trainer = started(make_trainer(name, *own, "2d", results=tmp_path / "results"))
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.seed) == (3, 2, 1)
    assert name in trainer.output_folder
    file = str(tmp_path / "weights.pth")
    trainer.save_checkpoint(file)
    other = make_trainer(f"{NAME}_seed2", *own, "2d", results=tmp_path / "results")
    other.initialize()
    key = next(k for k in trainer.network.state_dict() if k.startswith("encoder"))
    assert not torch.equal(other.network.state_dict()[key], trainer.network.state_dict()[key])
    load_pretrained_weights(other.network, file)
    other.on_train_start()
    assert torch.equal(other.network.state_dict()[key], trainer.network.state_dict()[key])
