"""Places of foreground in unlabeled images: what is noted, what workers see, and where patches lie then."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_ssl.dataloading import streams
from nnunet_ssl.dataloading.loader import UnlabeledLoader
from nnunet_ssl.dataloading.places import PLACES, FoundPlaces, near, share_with_foreground
from nnunet_ssl.predictions.hard_labels import objects_shown
from tests.helpers.training import make_trainer, started


def noted(places, *patches):
    """Args: patches: case, center, shown objects."""
    for case, center, objects in patches:
        places.note([case], torch.tensor([center]), torch.tensor([objects]))
    places.end_epoch(is_ddp=False)


def test_workers_see_what_was_noted_once_it_is_shown():
    places = FoundPlaces(["b", "a"], 2)
    noted(places, ("b", [1, 2, 3], [False, True]), ("b", [4, 5, 6], [True, True]), ("a", [7, 8, 9], [False, False]))
    assert places.of("b") == {}
    assert places.show() == 1
    found = places.of("b")
    assert sorted(found) == [0, 1] and places.of("a") == {}
    assert found[0].tolist() == [[0, 4, 5, 6]] and found[1].tolist() == [[0, 1, 2, 3], [0, 4, 5, 6]]


def test_all_processes_know_what_one_has_seen(monkeypatch):
    def gather(everyone, own):
        everyone[:] = [own, [("b", [9, 9, 9], [True, False])]]

    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    places = FoundPlaces(["a", "b"], 2)
    places.note(["a"], torch.tensor([[1, 2, 3]]), torch.tensor([[False, True]]))
    places.end_epoch(is_ddp=True)
    assert places.show() == 2
    assert places.of("a")[1].tolist() == [[0, 1, 2, 3]] and places.of("b")[0].tolist() == [[0, 9, 9, 9]]


def test_the_newest_places_stay():
    places = FoundPlaces(["a"], 1)
    noted(places, *(("a", [0, 0, i], [True]) for i in range(PLACES + 5)))
    places.show()
    assert sorted(places.of("a")[0][:, 3].tolist()) == list(range(5, PLACES + 5))


def test_a_continued_run_has_the_same_places_of_the_cases_that_are_left():
    places = FoundPlaces(["a", "b", "c"], 2)
    noted(places, ("b", [1, 2, 3], [False, True]), ("c", [4, 5, 6], [True, False]))
    places.show()
    noted(places, ("b", [7, 8, 9], [True, False]))
    other = FoundPlaces(["b", "c", "new"], 2)
    other.load_state_dict(places.state_dict())
    assert all(np.array_equal(other.of(case)[i], v) for case in "bc" for i, v in places.of(case).items())
    assert sorted(other.of("b")) == [1] and other.of("new") == {}
    other.show()
    assert sorted(other.of("b")) == [0, 1]


def test_a_patch_near_a_place_is_moved_and_stays_in_the_image():
    np.random.seed(0)
    drawn = [near({3: np.array([[0, 0, 10, 19]])}, (1, 40, 20), (1, 16, 8)) for _ in range(200)]
    assert all(list(voxels) == [3] for voxels in drawn)
    voxels = np.array([v[3][0] for v in drawn])
    assert set(voxels[:, 0]) == set(voxels[:, 1]) == {0}
    assert voxels[:, 2].min() == 6 and voxels[:, 2].max() == 14
    assert voxels[:, 3].min() == 17 and voxels[:, 3].max() == 19


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_objects_count_where_labels_are_trusted(activation):
    labels = torch.zeros(2, 1, 4, 4, dtype=torch.int64)
    labels[0, 0, 0, 0], labels[0, 0, 1, 1], labels[1, 0, 0, 0] = 1, 3, 2
    counted = torch.ones_like(labels, dtype=torch.bool)
    counted[0, 0, 1, 1] = False
    if activation == "sigmoid":
        labels = torch.cat([labels == c for c in (1, 2, 3)], 1)
        counted = counted.expand_as(labels)
    found = objects_shown(labels, counted, 3, activation)
    assert found.tolist() == [[True, False, False], [False, True, False]]


NAME = "nnUNetTrainerSemiSupervised"
LENGTH = {"num_epochs": 100, "num_iterations_per_epoch": 10}


def seldom(datasets, tmp_path, monkeypatch, share=2.0, **attributes):
    """A trainer of the second stage on images of which random patches are taken to show foreground seldom."""
    monkeypatch.setattr(streams, "SELDOM", share)
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path / "results", **LENGTH, **attributes))
    trainer.gate.opened_at, trainer.iteration = 0.3, 400
    return trainer


def finish_epoch(trainer, epoch, steps=2):
    trainer.current_epoch = epoch
    trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train)) for _ in range(steps)])


def test_where_random_patches_show_foreground_all_are_random(datasets, tmp_path, monkeypatch):
    trainer = seldom(datasets, tmp_path, monkeypatch, share=0.0)
    assert trainer.places is None and not trainer.foreground_is_rare
    finish_epoch(trainer, 44)
    trainer = seldom(datasets, tmp_path, monkeypatch, near_foreground=0.0)
    assert trainer.places is None and trainer.foreground_is_rare
    trainer = seldom(lambda: datasets(ignore=True), tmp_path, monkeypatch)
    assert trainer.label_manager.has_ignore_label and not trainer.foreground_is_rare


@pytest.mark.parametrize("options", [{}, {"regions": True}], ids=["labels", "regions"])
def test_patches_lie_near_what_was_found(options, datasets, tmp_path, monkeypatch):
    trainer = seldom(lambda: datasets(**options), tmp_path, monkeypatch, near_foreground=1.0)
    loader = streams.loader_of(trainer.dataloader_train).unlabeled
    version = trainer._shared_pool.version
    trainer.note_foreground = lambda labels, counted, batch: trainer.places.note(
        batch.unlabeled_keys, batch.unlabeled_centers, torch.ones(batch.num_unlabeled, trainer.num_objects) > 0
    )
    finish_epoch(trainer, 43)
    assert trainer.places.of(trainer.unlabeled_pool[0]) == {}  # no twentieth of the run has ended
    finish_epoch(trainer, 44)
    assert trainer._shared_pool.version > version
    seen = 0
    for _ in range(5):
        batch = next(trainer.dataloader_train)
        for case, center in zip(batch["unlabeled_keys"], batch["unlabeled_centers"].numpy(), strict=True):
            if places := trainer.places.of(case):
                away = np.abs(np.concatenate(list(places.values()))[:, 1:] - center)
                assert (away <= np.array(loader.patch_size) // 4 + 1).all(1).any()
                seen += 1
    assert seen


def test_it_is_found_by_the_labels_that_count(datasets, tmp_path, monkeypatch):
    trainer = seldom(datasets, tmp_path, monkeypatch)
    trainer.sure = lambda labels, confidence, inside: torch.zeros_like(labels, dtype=torch.bool)
    finish_epoch(trainer, 44)
    assert trainer.places.show() == 0
    trainer.labels_of = lambda weak: (torch.ones_like(weak[:, :1], dtype=torch.int64), torch.ones_like(weak[:, :1]))
    trainer.sure = lambda labels, confidence, inside: inside
    finish_epoch(trainer, 44)
    assert trainer.places.show() > 0
    assert {i for case in trainer.unlabeled_pool for i in trainer.places.of(case)} == {0}


def test_a_checkpoint_keeps_the_places(datasets, tmp_path, monkeypatch):
    trainer = seldom(datasets, tmp_path, monkeypatch)
    trainer.labels_of = lambda weak: (torch.ones_like(weak[:, :1], dtype=torch.int64), torch.ones_like(weak[:, :1]))
    trainer.sure = lambda labels, confidence, inside: inside
    finish_epoch(trainer, 44)
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    other = make_trainer(NAME, *datasets(), results=tmp_path / "other", **LENGTH)
    other.load_checkpoint(str(tmp_path / "c.pth"))
    other.on_train_start()
    for case in trainer.unlabeled_pool:
        found, expected = other.places.of(case), trainer.places.of(case)
        assert found.keys() == expected.keys() and all(np.array_equal(found[i], expected[i]) for i in found)


class Labeled:
    """One case of 1 x 20 x 20 voxels whose foreground is one voxel, or none."""

    identifiers = ["a"]

    def __init__(self, voxel):
        self.locations = {1: [] if voxel is None else np.array([[0, *voxel]]), (-1, 0, 1): np.array([[0, 0, 0, 0]])}

    def load_case(self, case):
        return np.zeros((1, 1, 20, 20)), None, None, {"class_locations": self.locations}


def loader_of_patches(size=(10, 10)):
    label_manager = LabelManager({"background": 0, "one": 1}, None)
    return UnlabeledLoader(Labeled(None), 2, size, size, label_manager, None)


def test_the_share_of_random_patches_with_foreground():
    loader, state = loader_of_patches(), np.random.get_state()[1].copy()
    share = share_with_foreground(loader, Labeled((0, 10, 10)), [1])
    assert share == pytest.approx((10 / 11) ** 2, abs=0.03)  # 11 x 11 boxes, of which 10 x 10 have the voxel
    assert share_with_foreground(loader, Labeled((0, 0, 0)), [1]) == pytest.approx(1 / 121, abs=0.01)
    assert share_with_foreground(loader, Labeled(None), [1]) == 0
    assert share == share_with_foreground(loader, Labeled((0, 10, 10)), [1])
    assert np.array_equal(state, np.random.get_state()[1])


class TwoSources(Labeled):
    """Cases that all show two objects in one third of the image each; an object that is not annotated is not in the labels."""

    def __init__(self, annotated):
        self.annotated = annotated
        self.identifiers = list(annotated)
        rows = {1: range(0, 7), 2: range(13, 20)}
        self.voxels = {k: np.array([[0, 0, y, x] for y in r for x in range(20)]) for k, r in rows.items()}

    def load_case(self, case):
        locations = {k: self.voxels[k] if k in self.annotated[case] else [] for k in (1, 2)}
        return np.zeros((1, 1, 20, 20)), None, None, {"class_locations": locations}


def test_what_is_not_annotated_does_not_make_foreground_rare():
    loader = loader_of_patches((6, 6))

    def share(**annotated):
        return share_with_foreground(loader, TwoSources(annotated), [1, 2], annotated.__getitem__)

    complete = share(a={1, 2}, b={1, 2})
    assert share(a={1, 2}, b={1}, c={2}) == pytest.approx(complete, abs=0.03)  # by the cases that annotate both
    assert share(a={1}, b={2}, c=set()) == pytest.approx(complete / 2, abs=0.03)  # at least as many as show one of them
    as_if_empty = share_with_foreground(loader, TwoSources({"a": {1}, "b": {2}, "c": set()}), [1, 2])
    assert as_if_empty == pytest.approx(complete / 3, abs=0.03)
    assert share(a={1}) > 0 and share(a=set()) == 0
