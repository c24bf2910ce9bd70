"""A V-Net beside the networks nnU-Net planned: by default the one of the left atrium (LA) studies.

    python -m nnunet_ssl.plans.vnet -d 101 -b 3d_fullres
    nnUNetv2_train 101 3d_fullres_vnet 0 -tr nnUNetTrainerUAMT

adds `3d_fullres_vnet` to `nnUNet_preprocessed/Dataset101_*/nnUNetPlans.json`: patches of 112 x 112 x 80 voxels (x, y, z), two
labeled ones in a batch, `nnunet_ssl.networks.VNet` with 16 to 256 feature maps. It inherits from `3d_fullres`, so that spacing,
normalization and the preprocessed data are the same and nothing has to be preprocessed again. Strides and kernel sizes follow
nnU-Net's rules, which for LA give those of the official network. In 2D, patch and batch size are those of the base.

Differs from the official network: the normalization of the base, which for nnU-Net is instance norm (official: batch norm); heads
for deep supervision; no dropout (methods that need it add it).

nnU-Net needs this package installed to build the network, for prediction too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_ssl.errors import UserError
from nnunet_ssl.plans.derived import load_base, plan_topology, save_configuration

NETWORK = "nnunet_ssl.networks.VNet"
LA_PATCH = (80, 112, 112)  # voxels (z, y, x), the axis order of nnU-Net's readers; UA-MT and its successors
LA_BATCH = 2  # labeled patches; the official batch of 4 has as many unlabeled ones
FEATURES = (16, 32, 64, 128, 256)  # V-Net, all versions
MOST_CONVOLUTIONS = 3  # of a stage: 1, 2, 3, 3, 3
_FROM_BASE = ("conv_op", "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs")


def add_vnet_configuration(
    plans_file: str | Path,
    base: str,
    patch_size: Sequence[int] | None = None,
    batch_size: int | None = None,
    features: Sequence[int] | None = None,
    name: str | None = None,
    overwrite: bool = False,
) -> str:
    """Add a configuration with a V-Net. An equal configuration of this name is left as it is.

    Args:
        plans_file: nnU-Net's plans, changed in place (written beside and renamed).
        base: configuration to inherit from, e.g. `2d` or `3d_fullres`.
        patch_size: voxels, in the axis order of the plans (after `transpose_forward`), rounded up where the strides require
            it. Default: 112 x 112 x 80 in 3D, that of the base in 2D.
        batch_size: labeled samples in a batch. Default: 2 in 3D, that of the base in 2D.
        features: feature maps per stage, the first at full resolution; their number is the number of stages. Default: 16 to
            256, fewer where the patch allows fewer stages.
        name: of the new configuration; `<base>_vnet` by default.
        overwrite: replace a different configuration of that name.

    Returns:
        The name of the configuration.

    Raises:
        UserError: no such plans or configuration, a cascade, a network without convolutions, a patch that does not fit the
            number of stages, or a different configuration of that name.
    """
    plans, manager = load_base(plans_file, base)
    planned = manager.network_arch_init_kwargs
    if "conv_op" not in planned:
        raise UserError(
            f"'{base}' of {plans_file} has a {manager.network_arch_class_name}, which names no convolution (conv_op) and "
            "normalization for a V-Net to take over. Inherit from a configuration of nnU-Net's own U-Nets."
        )
    in_3d = len(manager.patch_size) == 3
    if patch_size is None:
        patch_size = [LA_PATCH[axis] for axis in plans["transpose_forward"]] if in_3d else manager.patch_size
    if batch_size is None:
        batch_size = LA_BATCH if in_3d else manager.batch_size
    topology = plan_topology(
        base, manager, patch_size, None if features is None else len(features), most_stages=len(FEATURES)
    )
    stages = len(topology.strides)
    convolutions = [min(s + 1, MOST_CONVOLUTIONS) for s in range(stages)]
    kwargs = {
        "n_stages": stages,
        "features_per_stage": list(features or FEATURES[:stages]),
        "kernel_sizes": topology.kernel_sizes,
        "strides": topology.strides,
        "n_conv_per_stage": convolutions,
        "n_conv_per_stage_decoder": convolutions[-2::-1],
        "conv_bias": True,
        "nonlin": "torch.nn.ReLU",
        "nonlin_kwargs": {"inplace": True},
        "residual": False,
        "concatenate": False,
        **{key: planned[key] for key in _FROM_BASE if key in planned},
    }
    configuration = {
        "inherits_from": base,
        "batch_size": int(batch_size),
        "patch_size": topology.patch_size,
        "architecture": {
            "network_class_name": NETWORK,
            "arch_kwargs": kwargs,
            "_kw_requires_import": [k for k in ("conv_op", "norm_op", "dropout_op", "nonlin") if k in kwargs],
        },
    }
    return save_configuration(plans_file, plans, name or f"{base}_vnet", configuration, overwrite)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m nnunet_ssl.plans.vnet",
        description="Add a configuration with a V-Net to the plans of a preprocessed data set.",
        epilog="example:\n  python -m nnunet_ssl.plans.vnet -d 101 -b 3d_fullres\n"
        "  nnUNetv2_train 101 3d_fullres_vnet 0 -tr nnUNetTrainerUAMT",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-d", required=True, help="data set ID or name")
    parser.add_argument("-b", required=True, help="configuration to inherit from, e.g. 2d or 3d_fullres")
    parser.add_argument("-p", default="nnUNetPlans", help="[OPTIONAL] name of the plans. Default: nnUNetPlans")
    parser.add_argument(
        "--patch_size",
        type=int,
        nargs="+",
        default=None,
        help="[OPTIONAL] voxels, in the axis order of the plans. Default: 112 x 112 x 80 in 3D, that of the base in 2D",
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        default=None,
        help="[OPTIONAL] labeled samples in a batch. Default: 2 in 3D, that of the base in 2D",
    )
    parser.add_argument(
        "--features",
        type=int,
        nargs="+",
        default=None,
        help="[OPTIONAL] feature maps of every stage. Default: 16 32 64 128 256, as far as the patch allows",
    )
    parser.add_argument("--name", default=None, help="[OPTIONAL] name of the new configuration. Default: <base>_vnet")
    parser.add_argument("--overwrite", action="store_true", help="[OPTIONAL] replace a different one of that name")
    args = parser.parse_args(argv)

    from nnunet_ssl.data.raw_dataset import dataset_name, preprocessed_folder

    try:
        file = preprocessed_folder(dataset_name(args.d)) / f"{args.p}.json"
        name = add_vnet_configuration(
            file, args.b, args.patch_size, args.batch_size, args.features, args.name, args.overwrite
        )
    except UserError as error:
        print(f"\n{parser.prog}: {error}", file=sys.stderr)
        return 1
    print(f"{file}: configuration {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
