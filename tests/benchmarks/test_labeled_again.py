"""benchmarks/labeled_again.py: training images of fold 0 once more, without a leak."""

from __future__ import annotations

from benchmarks import labeled_again
from nnunet_ssl.data.list_update import update_list
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from tests.helpers.raw_data import use_folders, write_raw_dataset, write_split


def test_training_images_come_again_as_images_of_their_patients_and_validation_images_do_not(monkeypatch, tmp_path):
    use_folders(monkeypatch, tmp_path)
    folder = tmp_path / "nnUNet_raw" / "Dataset031_Again"
    write_raw_dataset(folder, {"a_1": 0, "a_2": 1, "b": 2}, channels=2)
    write_split(folder, (("a_1", "a_2"), ("b",)))
    UnlabeledList(groups={"a_1": "a", "a_2": "a"}).save(folder / "unlabeled.json")
    for _ in range(2):
        assert labeled_again.main(["-d", "31"]) == 0
        raw = RawDataset.open("31")
        assert sorted(raw.unlabeled) == ["again_a_1", "again_a_2"]
    content = update_list(raw, 1, show_progress=False)
    assert (
        content.patient("again_a_2") == "a" and content.unlabeled["again_a_2"].sha256 == content.labeled["a_2"].sha256
    )
    assert not (folder / "imagesUn" / "again_b_0000.nii.gz").exists()
