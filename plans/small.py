"""A small configuration beside the ones nnU-Net planned, for runs on a CPU or as a quick look at a data set.

    python -m nnunet_ssl.plans.small -d 101 -b 3d_fullres --patch_size 32 64 64 --batch_size 2 --features 8 16 32

adds `3d_fullres_small` to `nnUNet_preprocessed/Dataset101_*/nnUNetPlans.json`. It inherits from `3d_fullres`, so that
spacing, normalization and the preprocessed data are the same and nothing has to be preprocessed again; only patch size,
batch size and the size of the network differ. The network is of the class that was planned, which nnU-Net builds and
predicts with as usual. Results with it are below what nnU-Net's own configuration reaches.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_ssl.errors import UserError
from nnunet_ssl.plans.derived import load_base, plan_topology, save_configuration

_BLOCK_KEYS = ("n_conv_per_stage", "n_blocks_per_stage", "n_conv_per_stage_decoder")


def add_small_configuration(
    plans_file: str | Path,
    base: str,
    patch_size: Sequence[int],
    batch_size: int,
    features: Sequence[int],
    name: str | None = None,
    overwrite: bool = False,
) -> str:
    """Add a configuration that differs from `base` in patch size, batch size and network size.

    Strides and kernel sizes follow nnU-Net's rules for the new patch. The patch size is rounded up where the strides
    require it. An equal configuration of this name is left as it is.

    Args:
        plans_file: nnU-Net's plans, changed in place (written beside and renamed).
        base: configuration to inherit from, e.g. `2d` or `3d_fullres`.
        patch_size: voxels, in the axis order of the plans (after `transpose_forward`).
        batch_size: labeled samples in a batch.
        features: feature maps per stage, the first at full resolution; their number is the number of stages.
        name: of the new configuration; `<base>_small` by default.
        overwrite: replace a different configuration of that name.

    Returns:
        The name of the configuration.

    Raises:
        UserError: no such plans or configuration, a cascade, a patch that does not fit the number of stages, or a
            different configuration of that name.
    """
    plans, manager = load_base(plans_file, base)
    stages = len(features)
    topology = plan_topology(base, manager, patch_size, stages)
    architecture = dict(manager.configuration["architecture"])
    kwargs = dict(architecture["arch_kwargs"])
    kwargs.update(
        n_stages=stages,
        features_per_stage=list(features),
        strides=topology.strides,
        kernel_sizes=topology.kernel_sizes,
    )
    for key in _BLOCK_KEYS:
        if key in kwargs:
            length = stages - 1 if key.endswith("decoder") else stages
            planned = list(kwargs[key])
            kwargs[key] = (planned + planned[-1:] * length)[:length]
    architecture["arch_kwargs"] = kwargs
    configuration = {
        "inherits_from": base,
        "batch_size": int(batch_size),
        "patch_size": topology.patch_size,
        "architecture": architecture,
    }
    return save_configuration(plans_file, plans, name or f"{base}_small", configuration, overwrite)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m nnunet_ssl.plans.small",
        description="Add a small configuration to the plans of a preprocessed data set.",
        epilog="example:\n  python -m nnunet_ssl.plans.small -d 101 -b 2d --patch_size 64 64 --batch_size 4 "
        "--features 8 16 32 32\n  nnUNetv2_train 101 2d_small 0",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-d", required=True, help="data set ID or name")
    parser.add_argument("-b", required=True, help="configuration to inherit from, e.g. 2d or 3d_fullres")
    parser.add_argument("-p", default="nnUNetPlans", help="[OPTIONAL] name of the plans. Default: nnUNetPlans")
    parser.add_argument(
        "--patch_size", type=int, nargs="+", required=True, help="voxels, in the axis order of the plans"
    )
    parser.add_argument("--batch_size", type=int, required=True, help="samples in a batch")
    parser.add_argument("--features", type=int, nargs="+", required=True, help="feature maps of every stage")
    parser.add_argument("--name", default=None, help="[OPTIONAL] name of the new configuration. Default: <base>_small")
    parser.add_argument("--overwrite", action="store_true", help="[OPTIONAL] replace a different one of that name")
    args = parser.parse_args(argv)

    from nnunet_ssl.data.raw_dataset import dataset_name, preprocessed_folder

    try:
        folder = preprocessed_folder(dataset_name(args.d))
        name = add_small_configuration(
            folder / f"{args.p}.json",
            args.b,
            args.patch_size,
            args.batch_size,
            args.features,
            args.name,
            args.overwrite,
        )
    except UserError as error:
        print(f"\n{parser.prog}: {error}", file=sys.stderr)
        return 1
    print(f"{folder / f'{args.p}.json'}: configuration {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
