"""The gate that opens when every class is found on labeled patches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from batchgenerators.utilities.file_and_folder_operations import load_pickle, write_pickle

from nnunet_ssl.trainer import nnUNetTrainerSSL
from tests.helpers.trainers import next_batches
from tests.helpers.training import copy_dataset, make_trainer, started

LENGTH = {"num_epochs": 100, "num_iterations_per_epoch": 10}


def gated(datasets, tmp_path, name="nnUNetTrainerBCP", options=None, **attributes):
    out, dataset = datasets(**(options or {}))
    return started(make_trainer(name, out, dataset, results=tmp_path, **LENGTH, **attributes))


def at(trainer, progress):
    trainer.iteration = round(progress * 1000)


def test_it_counts_labeled_batches_while_it_is_shut(datasets, tmp_path):
    trainer = gated(datasets, tmp_path)
    batches = next_batches(trainer, 3)
    trainer.train_step(batches[0])
    counted = trainer.gate.counts.counts.clone()
    tp, _, fn = counted
    annotated = sum(float((batches[0]["target"][0] == c).sum()) for c in range(1, counted.shape[1] + 1))
    assert annotated > 0 and float((tp + fn).sum()) == pytest.approx(annotated)  # of the mixed labels: permuted voxels
    trainer.train_step(batches[1])
    assert not torch.equal(trainer.gate.counts.counts, counted)
    counted = trainer.gate.counts.counts.clone()
    trainer.gate.opened_at = 0.0
    trainer.train_step(batches[2])
    assert torch.equal(trainer.gate.counts.counts, counted)


def test_a_method_that_asks_for_no_competence_has_its_published_switch(datasets, tmp_path):
    trainer = gated(datasets, tmp_path, competence=0.0, pretrain_fraction=0.25)
    stages = []
    for progress in (0.0, 0.249, 0.25, 0.5):
        at(trainer, progress)
        stages.append(trainer.pretraining)
    assert stages == [True, True, False, False]


def test_a_switch_that_is_later_than_the_latest_stays_where_it_is(datasets, tmp_path):
    trainer = gated(datasets, tmp_path, pretrain_fraction=0.6)
    trainer.gate.counts.counts[0] = 1.0
    for progress, since in ((0.5, None), (0.6, 0.0)):
        at(trainer, progress)
        trainer.gate.look()
        assert trainer.gate.since_opening == since


@pytest.mark.parametrize("name", ["nnUNetTrainerBCP", "nnUNetTrainerCML", "nnUNetTrainerFilterMatch"])
def test_it_opens_after_an_epoch_in_which_every_class_was_found(name, datasets, tmp_path):
    trainer = gated(datasets, tmp_path, name)
    at(trainer, 0.3)
    trainer.gate.counts.counts[:] = torch.tensor([[9e6], [1e6], [1e6]])
    assert trainer.gate.since_opening is None and set(trainer.weights().values()) <= {
        0.0,
        getattr(trainer, "discrepancy_weight", 0.0),
    }
    trainer.on_train_epoch_end([trainer.train_step(b) for b in next_batches(trainer, 1)])
    assert trainer.gate.opened_at == pytest.approx(0.301)


@pytest.mark.parametrize(
    "name, regions",
    [("SemiSupervised", False), ("SemiSupervised", True), ("BCP", True), ("PartialLabelMT", False)],
)
def test_a_class_that_no_label_shows_is_not_waited_for(name, regions, datasets, tmp_path):
    kind = {"partial": True, "unlabeled": 0} if name.startswith("Partial") else {}
    out, dataset = datasets(regions=regions, **kind)
    out = copy_dataset(out, tmp_path / "data")
    trainer = make_trainer(f"nnUNetTrainer{name}", out, dataset, results=tmp_path / "results", **LENGTH)
    *_, (class_name, label) = trainer.dataset_json["labels"].items()
    absent = trainer.targets[-1]
    assert absent == (tuple(label) if isinstance(label, list) else label)
    for file in Path(trainer.preprocessed_dataset_folder).glob("case_*.pkl"):
        properties = load_pickle(str(file))
        properties["class_locations"][absent] = []
        write_pickle(properties, str(file))
    trainer = started(trainer)
    assert f"no labeled training case shows {class_name}." in Path(trainer.log_file).read_text()
    at(trainer, 0.31)
    trainer.gate.counts.counts[:] = torch.tensor([[9e6, 0], [1e6, 5], [1e6, 0]])  # it is predicted somewhere
    trainer.gate.look()
    assert trainer.gate.opened_at == pytest.approx(0.31)
    assert "0.90, nan" in Path(trainer.log_file).read_text()


@pytest.mark.parametrize("missing_in, read", [(0, 1), (1, 2)])
def test_labeled_cases_are_read_until_every_class_was_shown(missing_in, read, datasets, tmp_path, monkeypatch):
    out, dataset = datasets()
    trainer = make_trainer("nnUNetTrainerSemiSupervised", out, dataset, results=tmp_path / "results", **LENGTH)
    everything = set(trainer.targets)
    asked = []

    def shown_in(self, case):
        asked.append(case)
        return everything if len(asked) > missing_in else set()

    monkeypatch.setattr(nnUNetTrainerSSL, "shown_in", shown_in)
    trainer = started(trainer)
    assert asked == list(trainer.cases.train[:read]) and len(trainer.cases.train) > read


GATED = ["SemiSupervised", "UniMatch", "FixMatch", "FilterMatch", "ADMT"]


def drawn(trainer) -> bool:
    return "unlabeled" in next(trainer.dataloader_train)


@pytest.mark.parametrize("name", GATED)
def test_unlabeled_patches_are_drawn_from_when_it_opens(name, datasets, tmp_path):
    trainer = gated(datasets, tmp_path, f"nnUNetTrainer{name}")
    pool = trainer.unlabeled_pool
    assert len(pool) == 3 and trainer.unlabeled_share == 0.5 and not drawn(trainer)
    at(trainer, 0.31)
    trainer.gate.counts.counts[:] = torch.tensor([[9e6], [1e6], [1e6]])
    outputs = [trainer.train_step(next(trainer.dataloader_train)) for _ in range(2)]
    assert outputs[0]["loss"] == outputs[0]["labeled"] and not drawn(trainer)
    trainer.on_train_epoch_end(outputs)
    assert trainer.gate.opened_at and drawn(trainer) and trainer.unlabeled_pool == pool


def test_a_step_in_which_it_opens_has_unlabeled_patches(datasets, tmp_path):
    trainer = gated(datasets, tmp_path, "nnUNetTrainerFilterMatch")
    batch = next(trainer.dataloader_train)
    assert trainer.train_step(batch)["pseudo"] == 0
    at(trainer, 0.4)  # the latest, in the middle of an epoch
    assert trainer.train_step(batch)["pseudo"] != 0 and drawn(trainer)


@pytest.mark.parametrize("progress, open_then", [(0.1, False), (0.35, True), (0.5, True)])
def test_a_continued_training_draws_what_it_needs(progress, open_then, datasets, tmp_path):
    trainer = gated(datasets, tmp_path, "nnUNetTrainerFilterMatch")
    at(trainer, progress)
    trainer.gate.opened_at = 0.3 if open_then else None
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    other = make_trainer("nnUNetTrainerFilterMatch", *datasets(), results=tmp_path / "other", **LENGTH)
    other.load_checkpoint(str(tmp_path / "c.pth"))
    other.on_train_start()
    assert drawn(other) == open_then and len(other.unlabeled_pool) == 3


@pytest.mark.parametrize("length", [{"num_epochs": 200}, {"num_epochs": 50}, {"num_iterations_per_epoch": 4}])
@pytest.mark.parametrize("opened_at", [0.32, None])
def test_a_run_that_is_continued_at_another_length_goes_on_with_its_second_stage(length, opened_at, datasets, tmp_path):
    trainer = started(make_trainer("nnUNetTrainerSemiSupervised", *datasets(), results=tmp_path / "one", **LENGTH))
    trainer.current_epoch, trainer.iteration, trainer.gate.opened_at = 44, 450, opened_at
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    other = make_trainer("nnUNetTrainerSemiSupervised", *datasets(), results=tmp_path / "other", **(LENGTH | length))
    other.load_checkpoint(str(tmp_path / "c.pth"))
    other.on_train_start()
    epochs = length.get("num_epochs", 100)
    assert other.current_epoch == 45 and other.progress == pytest.approx(45 / epochs)
    since = 45 - 100 * (opened_at or trainer.gate.latest)
    assert other.gate.since_opening == pytest.approx(since / epochs)
    assert other.weights()["pseudo"] > 0 or epochs == 50  # near the end of a run labels are alone
    log = Path(other.log_file).read_text()
    assert f"begun with 1000 steps and has {other.total_steps} now. 45% of it were done" in log
    other.gate.look()
    assert other.gate.since_opening is not None
    one = make_trainer("nnUNetTrainerSemiSupervised", *datasets(), results=tmp_path / "same", **LENGTH)
    one.load_checkpoint(str(tmp_path / "c.pth"))
    assert (one.iteration, one.gate.opened_at) == (450, opened_at) and "begun with" not in Path(
        one.log_file
    ).read_text()


def test_a_checkpoint_has_the_counts_of_all_processes(datasets, tmp_path, monkeypatch):
    trainer = gated(datasets, tmp_path, "nnUNetTrainerFilterMatch")
    own, of_other = torch.tensor([[8.0], [1.0], [1.0]]), torch.tensor([[2.0], [9.0], [3.0]])
    trainer.gate.counts.counts[:] = own
    monkeypatch.setattr(trainer, "is_ddp", True)
    monkeypatch.setattr("nnunet_ssl.engine.competence.dist.all_reduce", lambda counts: counts.add_(of_other))
    monkeypatch.setattr("nnunet_ssl.engine.competence.dist.get_world_size", lambda: 2)
    trainer.gate.look()
    kept = trainer.gate.counts.counts
    assert torch.equal(2 * kept, (own + of_other).expand_as(kept))  # what the other process has as well
    assert trainer.gate.counts.f1() == pytest.approx([20 / 34] * kept.shape[1])


def test_a_gate_that_is_open_from_the_start_has_no_epoch_to_keep(datasets, tmp_path):
    gate = gated(datasets, tmp_path, pretrain_fraction=0.0, competence=0.0).gate
    gate.rescale(0.0)
    assert gate.since_opening == 0


def test_a_gate_that_was_shut_stays_shut_at_another_length(datasets, tmp_path):
    trainer = gated(datasets, tmp_path, "nnUNetTrainerFilterMatch")
    at(trainer, 0.2)
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    longer = LENGTH | {"num_epochs": 2 * LENGTH["num_epochs"]}
    other = make_trainer("nnUNetTrainerFilterMatch", *datasets(), results=tmp_path / "other", **longer)
    other.load_checkpoint(str(tmp_path / "c.pth"))
    assert other.gate.opened_at is None and other.gate.since_opening is None


def test_a_pool_that_changes_while_it_is_shut_is_drawn_from_later(datasets, tmp_path):
    trainer = gated(datasets, tmp_path, "nnUNetTrainerFilterMatch")
    trainer.set_unlabeled_cases(["free_01"])
    assert not drawn(trainer) and trainer.unlabeled_pool == ["free_01"]
    at(trainer, 0.4)
    trainer.train_step(next(trainer.dataloader_train))
    assert set(map(str, next(trainer.dataloader_train)["unlabeled_keys"])) == {"free_01"}


@pytest.mark.parametrize(
    "name, attributes",
    [
        ("BCP", {}),  # its first stage is not nnU-Net's
        ("CML", {}),
        ("MeanTeacher", {"consistency_weight": 0.0}),  # not gated: a weight may come at any time
        ("FixMatch", {"earliest": 0.0, "competence": 0.0}),
    ],
)
def test_other_methods_have_unlabeled_patches_from_the_start(name, attributes, datasets, tmp_path):
    assert drawn(gated(datasets, tmp_path, f"nnUNetTrainer{name}", **attributes))
