"""The training images of fold 0 once more, as unlabeled images `again_<case>` of the same patients.

    python -m benchmarks.labeled_again -d 31

With them a method that uses unlabeled images has nothing new to learn from, so it shows what it costs where all is labeled.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.splits import FILE_NAME as SPLITS_FILE
from nnunet_ssl.data.splits import load_splits
from nnunet_ssl.data.unlabeled_list import FILE_NAME as LIST
from nnunet_ssl.data.unlabeled_list import UnlabeledList

PREFIX = "again_"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, metavar="DATASET", help="id or name; as a converter left it")
    raw = RawDataset.open(parser.parse_args(words).d)
    content = UnlabeledList.load(raw.folder / LIST)
    target = raw.folder / "imagesUn"
    target.mkdir(exist_ok=True)
    # patients first: `preprocess_unlabeled` lists and hashes the images themselves
    train = load_splits(raw.folder / SPLITS_FILE)[0]["train"]
    content.groups |= {f"{PREFIX}{case}": content.patient(case) for case in train}
    content.save(raw.folder / LIST)
    for case in train:
        for file in raw.labeled[case]:
            shutil.copy(file, target / f"{PREFIX}{Path(file).name}")
    print(f"{len(train)} cases lie in {target} once more.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
