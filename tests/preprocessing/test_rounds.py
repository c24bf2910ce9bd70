"""Which files of a round are ours."""

from __future__ import annotations

from nnunet_ssl.data.ownership import foreign_files
from nnunet_ssl.preprocessing.rounds import files_of_round

OURS = [
    "round.json",
    "cases.csv",
    "cases.png",
    "labels/a.nii.gz",
    "labels/b [2].nii.gz",
    "labels/.a.nii.gz.node-12.tmp.nii.gz",
    "probabilities/a.npz",
    "scores/a.json",
    "scores/gone.json",
    "labels/gone.nii.gz",
    "nnUNetPlans_2d_pseudo.json",
    "nnUNetPlans_2d_pseudo/a.pkl",
    "nnUNetPlans_2d_pseudo/a_seg.b2nd",
]
OTHERS = [
    "notes.txt",
    "labels/c.nii.gz",
    "labels/a.txt",
    "labels/corrected/a.nii.gz",
    "scores/a.csv",
    "mine/a.nii.gz",
    "nnUNetPlans_2d_pseudo/c.pkl",
]


def test_files_of_known_cases_in_their_folders_and_nothing_else(tmp_path):
    for path in (*OURS, *OTHERS):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    (tmp_path / "labels" / "b.nii.gz").symlink_to(tmp_path / "labels" / "a.nii.gz")
    known = files_of_round(tmp_path, ["a", "b", "b [2]"], ".nii.gz")
    assert sorted(foreign_files(tmp_path, known)) == sorted([*OTHERS, "labels/b.nii.gz"])
