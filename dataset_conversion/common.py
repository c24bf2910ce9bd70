"""What every converter shares: its cases, where each of them goes, what dataset.json says, and the arguments.

A converter finds the cases of a release (`reading`), decides with lists and a label budget which of them are labeled,
unlabeled, for validation and for testing (`case_lists`), and calls `writing.write_dataset`. Everything that must not differ
between data sets happens in these modules.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import SimpleITK as sitk


@dataclass(frozen=True)
class Case:
    """One volume of the release.

    `label` is None for a case without an annotation. Such a case is unlabeled, which is not an error.
    """

    case_id: str  # identifier in nnU-Net, without the `_0000` of the channel
    patient: str  # what a split must not cut apart
    images: tuple[Path, ...]  # one file per channel; whatever else the reader needs for h5 containers and slices
    label: Path | None
    source: str  # the image's (or the case folder's) path relative to the -i folder, kept in unlabeled.json
    # the dense mask of a case whose `label` is sparse: it is never trained on, but serves validation and tests
    dense: Path | None = None


# Reads a case: one image per channel, and the label. Must return None as label, and not touch its file, where `case.label` is
# None: this is how labels of unlabeled cases stay unread. Runs in worker processes, hence a top-level function
# (functools.partial of one is fine). Raises UserError for a file that cannot be used.
Reader = Callable[[Case], tuple[list[sitk.Image], "sitk.Image | None"]]
# Reads `case.dense`, where it is not None; the same rules.
DenseReader = Callable[[Case], sitk.Image]


@dataclass(frozen=True)
class Assignment:
    """Case ids by their place in the data set. No id twice; no patient on two of the sides training (labeled and
    unlabeled), validation, test."""

    labeled: tuple[str, ...]  # imagesTr, labelsTr; trained on
    unlabeled: tuple[str, ...] = ()  # imagesUn; a label, where there is one, is not read and not written
    validation: tuple[str, ...] = ()  # imagesTr, labelsTr; only in `val` of the split
    test: tuple[str, ...] = ()  # imagesTs, and labelsTs where there is a label
    # folds of splits_final.json over labeled and validation cases; none: the one described in `writing.write_dataset`
    folds: tuple[Mapping[str, Sequence[str]], ...] = ()


@dataclass(frozen=True)
class DatasetDescription:
    """What dataset.json says, and which codes a label file may hold."""

    dataset_id: int
    name: str  # without `DatasetXXX_`
    channel_names: Mapping[str, str]  # {"0": "LGE-MRI"}
    labels: Mapping[str, int | tuple[int, ...]]  # as in nnU-Net's dataset.json
    # code in the file -> code in nnU-Net. Several mappings: the first that knows every code of a label is used for it, so
    # that a mask of 0/255 and one of 0/1 are both read, but not one that has 0, 1 and 255.
    label_codes: tuple[Mapping[int, int], ...]
    # the same for dense masks, where labels are sparse and `label_codes` has a code for what is not annotated, which becomes
    # nnU-Net's `ignore` of `labels`. Empty: labels are dense.
    dense_label_codes: tuple[Mapping[int, int], ...] = ()
    regions_class_order: tuple[int, ...] | None = None
    description: str = ""
    reference: str = ""
    license: str = "see reference"
    options: Mapping[str, object] = field(default_factory=dict)  # what else decides about the voxels, e.g. the spacing

    def __post_init__(self) -> None:
        if bool(self.dense_label_codes) != (self.ignore_label is not None):
            raise ValueError("sparse labels need both the label `ignore` and codes of the dense masks")

    @property
    def ignore_label(self) -> int | None:
        """The integer of nnU-Net's `ignore` label; None where all labels are dense."""
        return self.labels.get("ignore")

    @property
    def folder_name(self) -> str:
        """`DatasetXXX_Name`."""
        return f"Dataset{self.dataset_id:03d}_{self.name}"


def add_common_arguments(parser: argparse.ArgumentParser, default_id: int | None, default_name: str) -> None:
    """Arguments of every converter: args.input, .dataset_id, .name, .labeled, .seed, .split, .np, .overwrite.

    `default_id` None makes -d a required argument.
    """
    parser.add_argument("-i", dest="input", type=Path, required=True, metavar="FOLDER", help="folder of the release")
    parser.add_argument(
        "-d",
        dest="dataset_id",
        type=int,
        default=default_id,
        required=default_id is None,
        metavar="ID",
        help="data set id" if default_id is None else f"[OPTIONAL] data set id. Default: {default_id}",
    )
    parser.add_argument(
        "-name", default=default_name, help=f"[OPTIONAL] name after DatasetXXX_. Default: {default_name}"
    )
    parser.add_argument(
        "--labeled",
        metavar="N|FRACTION|LIST",
        help="[OPTIONAL] training patients whose labels are used: a number (8), a fraction (0.1, 10%%) or a file with one id "
        "per line. The labels of the others are not written. Default: all that have one",
    )
    parser.add_argument(
        "--seed",
        type=int,
        help="[OPTIONAL] choose the labeled patients at random with this seed. Default: the first ones of the train list, as the "
        "published protocols do",
    )
    parser.add_argument(
        "--split",
        nargs="+",
        metavar="PATH",
        help="[OPTIONAL] list files (their names contain train, val or test), or the folder that holds them. Default: see above",
    )
    parser.add_argument(
        "-np",
        type=int,
        default=8,
        metavar="N",
        help="[OPTIONAL] number of processes. Default: 8",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="[OPTIONAL] replace an existing data set of this id and name, once the new one is complete",
    )
