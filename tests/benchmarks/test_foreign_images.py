"""benchmarks/foreign_images.py: the unlabeled images of another data set in the place of a data set's own."""

from __future__ import annotations

from benchmarks import foreign_images
from nnunet_ssl.data.list_update import update_list
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from tests.helpers.raw_data import use_folders, write_raw_dataset


def test_its_own_unlabeled_images_go_and_those_of_the_other_come_with_their_patients(monkeypatch, tmp_path):
    use_folders(monkeypatch, tmp_path)
    for name, labeled, unlabeled in (("024_Ours", "a", ("b", "c")), ("108_Other", "k", ("l_1", "l_2"))):
        folder = tmp_path / "nnUNet_raw" / f"Dataset{name}"
        write_raw_dataset(folder, {labeled: 0}, unlabeled=dict.fromkeys(unlabeled, 1))
        UnlabeledList(groups={"l_1": "l", "l_2": "l"} if "l_1" in unlabeled else {"b": "x"}).save(
            folder / "unlabeled.json"
        )
    for _ in range(2):  # nothing changes if it is called again
        assert foreign_images.main(["-d", "24", "--of", "108"]) == 0
        raw = RawDataset.open("24")
        assert sorted(raw.unlabeled) == ["foreign_l_1", "foreign_l_2"] and sorted(raw.labeled) == ["a"]
        assert sorted(RawDataset.open("108").unlabeled) == ["l_1", "l_2"]
    content = update_list(raw, 1, show_progress=False)
    assert content.groups == {"foreign_l_1": "foreign_l", "foreign_l_2": "foreign_l"}
