"""Configurations beside the ones that nnU-Net planned, on the same preprocessed data.

A derived configuration inherits from a planned one, so that spacing, normalization and the preprocessed data are the same and
nothing has to be preprocessed again; patch size, batch size and network differ.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_ssl.data.atomic import write_atomically
from nnunet_ssl.data.plans_file import read_plans
from nnunet_ssl.errors import UserError

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

# nnU-Net takes the lowest resolution out of the loss, so two stages would leave a loss of nothing (0 / 0)
FEWEST_STAGES = 3
_SMALLEST_FEATURE_MAP = 4  # edge length in the bottleneck, as nnU-Net plans it


@dataclass(frozen=True)
class Topology:
    """What nnU-Net's rules make of a patch.

    Attributes:
        patch_size: voxels, rounded up where the strides require it.
        strides, kernel_sizes: one entry for each stage, from full resolution down.
    """

    patch_size: list[int]
    strides: list[list[int]]
    kernel_sizes: list[list[int]]


def load_base(plans_file: str | Path, base: str) -> tuple[dict[str, Any], ConfigurationManager]:
    """The plans in a file and their configuration `base`.

    Raises:
        UserError: no such plans or configuration, or one of a cascade.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans_file = Path(plans_file)
    if not plans_file.is_file():
        raise UserError(f"There are no plans {plans_file}. Run nnunet_ssl plan_and_preprocess -d ID first.")
    again = "Run nnunet_ssl plan_and_preprocess -d ID again."
    plans = read_plans(plans_file, again)
    if base not in plans["configurations"]:
        allowed = ", ".join(plans["configurations"])
        raise UserError(f"{plans_file} has no configuration '{base}'. Allowed: {allowed}.")
    manager = PlansManager(plans).get_configuration(base)
    if manager.previous_stage_name or manager.next_stage_names:
        raise UserError(
            f"'{base}' of {plans_file} belongs to a cascade, whose other stage would not fit another configuration. "
            f"Take 2d or 3d_fullres as the base."
        )
    return plans, manager


def plan_topology(
    base: str,
    manager: ConfigurationManager,
    patch_size: Sequence[int],
    stages: int | None = None,
    most_stages: int | None = None,
) -> Topology:
    """Strides and kernel sizes by nnU-Net's rules for this patch at the spacing of the configuration `base`.

    Args:
        base, manager: name and content of the configuration to inherit from.
        patch_size: voxels, in the axis order of the plans (after `transpose_forward`).
        stages: their number; None: as many as the patch allows, up to `most_stages`.

    Raises:
        UserError: another number of axes, or a patch that does not fit the number of stages.
    """
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props, pad_shape

    if len(patch_size) != len(manager.patch_size):
        raise UserError(
            f"The patch size {tuple(patch_size)} has {len(patch_size)} axes, '{base}' of the plans has "
            f"{len(manager.patch_size)} (planned: {tuple(manager.patch_size)})."
        )
    spacing = list(manager.spacing)[-len(patch_size) :]
    _, strides, kernels, *_ = get_pool_and_conv_props(spacing, list(patch_size), _SMALLEST_FEATURE_MAP, 99)
    if stages is None:
        stages = min(len(strides), most_stages or len(strides))
    if not FEWEST_STAGES <= stages <= len(strides):
        raise UserError(
            f"{stages} stages do not fit the patch {tuple(patch_size)}: allowed are {FEWEST_STAGES} to {len(strides)}. "
            "Give feature maps (--features) for as many stages, or another --patch_size."
        )
    strides, kernels = ([list(map(int, s)) for s in values[:stages]] for values in (strides, kernels))
    divisor = [1] * len(patch_size)
    for stride in strides:
        divisor = [d * s for d, s in zip(divisor, stride, strict=True)]
    return Topology([int(n) for n in pad_shape(patch_size, divisor)], strides, kernels)


def save_configuration(
    plans_file: str | Path, plans: dict[str, Any], name: str, configuration: dict[str, Any], overwrite: bool
) -> str:
    """Add a configuration to the plans in a file (atomically); an equal one is left as it is.

    Returns:
        The name of the configuration.

    Raises:
        UserError: a different configuration of that name, without `overwrite`.
    """
    plans_file = Path(plans_file)
    configuration = json.loads(json.dumps(configuration))  # tuples become lists, as in the file it is compared with
    present = plans["configurations"].get(name)
    if present == configuration:
        return name
    if present is not None and not overwrite:
        raise UserError(
            f"{plans_file} already has another configuration '{name}', which models may have been trained with. "
            f"Choose another name (--name), or replace it with --overwrite."
        )
    plans["configurations"][name] = configuration
    write_atomically(plans_file, lambda temporary: temporary.write_text(json.dumps(plans, indent=4)))
    return name
