"""SSL4MIS's own mean teacher on the images, patients and steps of the ACDC studies: what a user would otherwise pick.

    git clone https://github.com/HiLab-git/SSL4MIS && git -C SSL4MIS checkout 06df6047a59b
    pip install medpy opencv-python-headless tensorboardX efficientnet_pytorch einops timm yacs torchvision
    python benchmarks/peer.py --code SSL4MIS --out peer --labeled 3 --steps 4000

Nothing of SSL4MIS is part of this repository and its files stay as they are: its training function is imported and called. It
gets the preprocessed images of a study (2.5 mm), scaled to [0, 1] per volume as its own script does, and cut to the 96 x 96
pixels around the centre, which hold the whole heart, so that its zoom to the patch does nothing. Published settings hold (24
slices, 12 of them labeled, SGD, 0.01, poly, EMA 0.99, MSE of weight 0.1, rotations and flips) but for
  ramp-up          over the whole run, as published (200 epochs of 150 steps were its 30000 steps); the first 1000 steps without
                   consistency are written into its code and stay
  checkpoint       the last one: its choice by validation would be made on the cases of the table
  loading          in the main process
  without a GPU    `.cuda()` only sets the memory layout (channels last)
It predicts slice by slice as its test script does; outside of the 96 x 96 pixels is background. nnU-Net's export brings the
probabilities back to the grid of the image (linear, then argmax), as it does for all other rows. OUT/LABELED_SEED gets
weights.pth, log.txt and label maps: `predictions` (student, which SSL4MIS tests) and `predictions_ema`. Called again with
weights.pth there, it only predicts.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import logging
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.peer_slices import PATCH, Cases, cut_out, put_back, scaled, write_slices
from nnunet_ssl.data.atomic import write_atomically
from nnunet_ssl.data.environment import nnunet_folder
from nnunet_ssl.data.raw_dataset import dataset_name
from nnunet_ssl.data.splits import load_splits
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.errors import UserError
from nnunet_ssl.preprocessing.preprocessed import get_configuration, load_plans, unlabeled_folder, verify_unlabeled

DATASETS = {"3": "23", "5": "25", "7": "27"}  # labeled patients -> data set
SCRIPTS = {"mean_teacher": "train_mean_teacher_2D", "supervised": "train_fully_supervised_2D"}
COMMIT, PACKAGES = (line.strip() for line in __doc__.splitlines()[2:4])


def train(code: Path, method: str, work: Path, cases: Cases, steps: int, seed: int) -> dict[str, dict]:
    """Train with SSL4MIS on these cases; the weights of "student", and of "ema" where the method has one."""
    if not torch.cuda.is_available():
        nn.Module.cuda = lambda self: self.to(memory_format=torch.channels_last)
        torch.Tensor.cuda = lambda self: self
    os.chdir(code)  # it reads a file from there
    sys.argv = [method, "--root_path", str(work / "slices"), "--max_iterations", str(steps), "--seed", str(seed)]
    if method == "mean_teacher":
        sys.argv += ["--consistency_rampup", str(steps / 150)]
    script: Any = importlib.import_module(SCRIPTS[method])
    num_labeled = write_slices(work / "slices", cases)
    new_network, loader = script.net_factory, script.DataLoader
    networks: list[nn.Module] = []  # in the order in which its function makes them

    def net_factory(**options) -> nn.Module:
        networks.append(new_network(**options))
        return networks[-1]

    script.net_factory = net_factory
    script.DataLoader = lambda data, **options: loader(data, **options | {"num_workers": 0})
    script.patients_to_slices = lambda *_: num_labeled
    script.test_single_volume = lambda *_, classes: np.zeros((classes - 1, 2))  # no validation
    script.args.patch_size = [PATCH, PATCH]  # its option cannot be given in words
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    logging.basicConfig(filename=work / "log.txt", filemode="w", level=logging.INFO, format="%(asctime)s %(message)s")
    script.train(script.args, str(work))
    return {name: network.state_dict() for name, network in zip(("student", "ema"), networks)}


def run(args: argparse.Namespace) -> None:
    from nnunetv2.inference.export_prediction import export_prediction_from_logits
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    code = args.code.resolve() / "code"
    if not (code / f"{SCRIPTS[args.method]}.py").is_file():
        raise UserError(f"--code {args.code} is no checkout of SSL4MIS. Make one: {COMMIT}")
    base = nnunet_folder("nnUNet_preprocessed") / dataset_name(DATASETS[args.labeled])
    plans = load_plans(base, "nnUNetPlans")
    configuration = get_configuration(plans, "2d_small")
    split = load_splits(base / "splits_final.json")[0]
    unlabeled = sorted(UnlabeledList.load(base / "unlabeled.json").unlabeled)
    verify_unlabeled(base, plans, configuration, unlabeled)
    folders = str(base / configuration.data_identifier), unlabeled_folder(base, configuration)
    annotated, images = (infer_dataset_class(folder)(folder) for folder in folders)
    suffix = "" if args.method == "mean_teacher" else f"_{args.method}"
    work = (args.out / f"{args.labeled}_{args.seed}{suffix}").resolve()
    torch.set_num_threads(args.threads)
    sys.path.insert(0, str(code))

    if not (work / "weights.pth").is_file():
        first = ((case, *(np.asarray(array)[0] for array in annotated.load_case(case)[:2])) for case in split["train"])
        others = ((case, np.asarray(images.load_case(case)[0])[0], None) for case in unlabeled)
        weights = train(code, args.method, work, itertools.chain(first, others), args.steps, args.seed)
        write_atomically(work / "weights.pth", lambda file: torch.save({"steps": args.steps, **weights}, file))
    weights = torch.load(work / "weights.pth", map_location="cpu", weights_only=True)
    if (steps := weights.pop("steps")) != args.steps:
        raise UserError(f"{work}/weights.pth is of {steps} steps, asked are --steps {args.steps}. Name another --out.")
    network = importlib.import_module("networks.unet").UNet(in_chns=1, class_num=4).eval()
    for name, state in weights.items():
        network.load_state_dict(state)
        folder = work / ("predictions" if name == "student" else f"predictions_{name}")
        folder.mkdir(exist_ok=True)
        for case in split["val"]:
            image, _, _, properties = annotated.load_case(case)
            pixels = torch.from_numpy(cut_out(scaled(np.asarray(image)[0])))
            with torch.inference_mode():
                slices = [network(one[None, None]).softmax(1)[0] for one in pixels]
            probabilities = put_back(torch.stack(slices, 1).numpy(), image.shape[2:])
            files = str(base / "dataset.json"), str(folder / case)
            export_prediction_from_logits(
                probabilities, properties, configuration, plans, *files, num_threads_torch=args.threads
            )


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", type=Path, required=True, metavar="DIR", help="checkout of SSL4MIS")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--labeled", choices=DATASETS, default="3", help="patients. Default: 3")
    parser.add_argument("--method", choices=SCRIPTS, default="mean_teacher", help="Default: mean_teacher")
    parser.add_argument("--steps", type=int, default=4000, metavar="N", help="Default: 4000")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="Default: 0")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="Default: 1")
    try:
        run(parser.parse_args(words))
    except ModuleNotFoundError as error:
        print(f"peer: SSL4MIS needs {error.name}, which is not installed. Run `{PACKAGES}`.", file=sys.stderr)
        return 1
    except UserError as error:
        print(f"peer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
