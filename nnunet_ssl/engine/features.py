"""Features of nnU-Net that a method may not support, and their refusal when a training starts."""

from __future__ import annotations

from collections.abc import Mapping


def present_features(trainer) -> dict[str, bool]:
    """Feature -> whether this run uses it; the keys are the names that `nnUNetTrainerSSL.unsupported` may have."""
    dimensions = len(trainer.configuration_manager.patch_size)
    return {
        "2d": dimensions == 2,
        "3d": dimensions == 3,
        "regions": trainer.label_manager.has_regions,
        "ignore_label": trainer.label_manager.has_ignore_label,
        "deep_supervision": trainer.enable_deep_supervision,
        "no_deep_supervision": not trainer.enable_deep_supervision,
        "ddp": trainer.is_ddp,
        "compile": trainer._do_i_compile(),
        "fold_all": trainer.fold == "all",
    }


def refuse_unsupported(trainer, unsupported: Mapping[str, str]) -> None:
    """Refuse what the engine or the method cannot do.

    Raises:
        NotImplementedError: with the reason.
        ValueError: `unsupported` names a feature that does not exist.
    """
    name, present = type(trainer).__name__, present_features(trainer)
    unknown = set(unsupported) - set(present)
    if unknown:
        raise ValueError(f"{name}.unsupported: unknown {sorted(unknown)}, allowed {sorted(present)}")
    if trainer.is_cascaded:
        raise NotImplementedError(
            f"{name} cannot train '{trainer.configuration_name}': the second stage of a cascade takes the "
            "first stage's segmentations as input, and nnU-Net makes them for validation cases only, never for "
            "unlabeled ones. Train 3d_lowres or 3d_fullres, or the cascade's second stage with nnUNetTrainer."
        )
    for feature, reason in unsupported.items():
        if present[feature]:
            raise NotImplementedError(f"{name} does not support '{feature}': {reason}")


def refuse_without_mirroring_in_plane(trainer, what: str) -> None:
    """For what turns patches in the plane of the last two axes, where left and right may be classes of their own.

    Args:
        what: the part of the method or the option that turns them, for the message.

    Raises:
        NotImplementedError: nnU-Net's augmentation does not mirror along both axes, as in subclasses for such labels.
    """
    dimensions, allowed = len(trainer.configuration_manager.patch_size), _mirrored_axes(trainer)
    if not {dimensions - 2, dimensions - 1} <= set(allowed):
        raise NotImplementedError(
            f"{type(trainer).__name__}: {what} turns patches by quarter and half turns in the plane of the last two axes, and "
            f"mirroring is allowed along {sorted(allowed) or 'no axes'} only: left and right, which differ there, would be swapped."
        )


def refuse_without_mirroring(trainer) -> None:
    """For what compares a patch with its mirror image.

    Raises:
        NotImplementedError: nnU-Net's augmentation mirrors along no axis.
    """
    if not _mirrored_axes(trainer):
        raise NotImplementedError(
            f"{type(trainer).__name__} compares patches with their mirror images, and nnU-Net's mirroring is switched off: left "
            "and right, which differ there, would be swapped. Train with mirroring, or with another trainer."
        )


def _mirrored_axes(trainer) -> tuple[int, ...]:
    return trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[-1] or ()


SMALLEST_PATCH_SHARE = 0.5
"""Of the median image along every axis, below which a patch is a piece of it and mixing patches tears structures apart."""


def patch_share(trainer) -> float:
    """The smallest share of the median image (at the plans' spacing) that a patch shows along an axis, at most 1."""
    configuration = trainer.configuration_manager
    patch = configuration.patch_size
    image = configuration.median_image_size_in_voxels[-len(patch) :]
    return min(1.0, *(p / i for p, i in zip(patch, image, strict=True)))


def large_enough_to_mix(trainer, smallest_share: float) -> bool:
    """Whether a patch shows at least this share of the median image along every axis; else the log says that nothing is mixed.

    For methods that can do without CutMix; `smallest_share` is their attribute of this name.
    """
    share = patch_share(trainer)
    if share < smallest_share:
        trainer.print_to_log_file(f"A patch shows {share:.0%} of the median image: no CutMix, see smallest_share.")
    return share >= smallest_share


def warn_of_small_patches(trainer) -> None:
    """For methods that paste patches into each other, in the log: patches that show less than half of an image.

    Measured with BCP on ACDC at 1.5 mm, patch 96 x 96 of images of 237 x 208: 22 Dice below nnU-Net. The published settings have
    whole slices, or half of an image and more.
    """
    share = patch_share(trainer)
    if share < SMALLEST_PATCH_SHARE:
        trainer.print_to_log_file(
            f"Warning: a patch shows {share:.0%} of the median image along one axis, and {type(trainer).__name__} pastes patches "
            "into each other, which tears structures apart where patches are pieces of an image. Plan larger patches or a coarser "
            "spacing (`nnUNetv2_plan_and_preprocess -overwrite_target_spacing`), or use nnUNetTrainerSemiSupervised."
        )
