"""`nnunet_ssl preprocess_unlabeled`: the unlabeled images of a data set that nnU-Net has planned and preprocessed."""

from __future__ import annotations

import argparse

from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.preprocessing.preprocessed import preprocess_unlabeled


def preprocess_configurations(
    raw: RawDataset,
    content: UnlabeledList,
    plans_name: str,
    configurations: list[str],
    num_processes: list[int],
    args: argparse.Namespace,
) -> None:
    """Preprocess `imagesUn` for several configurations and print what was done. `args` has `verbose` and `no_pbar`."""
    hashes = {case: record.sha256 for case, record in content.unlabeled.items()}
    for configuration, processes in zip(configurations, num_processes):
        if not raw.unlabeled:
            print(f"{raw.name}: imagesUn holds no images; cases with hidden labels need no preprocessing of their own.")
            return
        outcome = preprocess_unlabeled(
            raw.name,
            plans_name,
            configuration,
            processes,
            cases=raw.unlabeled,
            hashes=hashes,
            verbose=args.verbose,
            show_progress=not args.no_pbar,
        )
        counts = ", ".join(f"{len(cases)} {what}" for what, cases in outcome.items())
        print(f"{raw.name}, {plans_name}, {configuration}: unlabeled cases: {counts}")
