"""What the commands import, for a server that forks them: a command then begins in milliseconds."""

from __future__ import annotations

import importlib
import os

os.environ.setdefault("nnUNet_def_n_proc", "1")  # nnU-Net reads it when it is imported

import matplotlib
import nnunetv2.inference.predict_from_raw_data
import nnunetv2.run.run_training  # noqa: F401
import torch
from nnunetv2.experiment_planning import plan_and_preprocess_api  # noqa: F401
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

from nnunet_ssl.commands import COMMANDS, load
from nnunet_ssl.commands.convert import DATASETS

torch.set_num_threads(1)
every_intensity = DatasetFingerprintExtractor.collect_foreground_intensities


def few_intensities() -> None:
    """In this process, nnU-Net draws a thousand voxels of each case for its fingerprint, not a hundred million in all."""

    def few(*arguments, num_samples: int, **options):
        return every_intensity(*arguments, num_samples=min(num_samples, 1000), **options)

    DatasetFingerprintExtractor.collect_foreground_intensities = staticmethod(few)
    matplotlib.rcParams["figure.dpi"] = 10  # of nnU-Net's figure of a training


for name in COMMANDS:
    load(name)
for module, _ in DATASETS.values():
    importlib.import_module(module)
for name in (
    "nnunet_ssl.evaluation.comparison",
    "nnunet_ssl.evaluation.test_predictions",
    "nnunet_ssl.weak.contact_sheet",
    "matplotlib.pyplot",
    "skimage.transform",
    "pandas",
):
    importlib.import_module(name)
