"""Unlabeled images of something else: those of another data set, as `foreign_<case>`, in the place of a data set's own.

    python -m benchmarks.foreign_images -d 24 --of 108

With them a method that uses unlabeled images has nothing to learn from and something to be misled by. The data set's own unlabeled
images are deleted: for data sets that were made for this.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.unlabeled_list import FILE_NAME as LIST
from nnunet_ssl.data.unlabeled_list import UnlabeledList

PREFIX = "foreign_"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, metavar="DATASET", help="id or name; as a converter left it")
    parser.add_argument("--of", required=True, metavar="DATASET", help="id or name of the other data set")
    args = parser.parse_args(words)
    raw, other = RawDataset.open(args.d), RawDataset.open(args.of)
    content, patients = UnlabeledList.load(raw.folder / LIST), UnlabeledList.load(other.folder / LIST)
    target = raw.folder / "imagesUn"
    for case, files in raw.unlabeled.items():
        if not case.startswith(PREFIX):
            for file in files:
                Path(file).unlink()
            content.unlabeled.pop(case, None)
            content.groups.pop(case, None)
    # patients first: `preprocess_unlabeled` lists and hashes the images themselves
    content.groups |= {f"{PREFIX}{case}": f"{PREFIX}{patients.patient(case)}" for case in other.unlabeled}
    content.save(raw.folder / LIST)
    for files in other.unlabeled.values():
        for file in files:
            shutil.copy(file, target / f"{PREFIX}{Path(file).name}")
    print(f"{len(other.unlabeled)} cases of {other.folder.name} are the unlabeled images of {raw.folder.name}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
