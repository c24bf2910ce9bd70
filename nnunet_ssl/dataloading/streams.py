"""The unlabeled stream beside nnU-Net's labeled one, drawn by the same worker processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import distributed as dist

from nnunet_ssl.dataloading.dataset import UnlabeledDataset
from nnunet_ssl.dataloading.loader import TwoStreamLoader, UnlabeledLoader
from nnunet_ssl.dataloading.places import SELDOM, FoundPlaces, share_with_foreground
from nnunet_ssl.dataloading.pool import UnlabeledPool, distribution
from nnunet_ssl.dataloading.views import UnlabeledViews, split_transforms, with_views
from nnunet_ssl.engine.seam_values import by_name, extras_of, function_of, list_of, views_of
from nnunet_ssl.errors import UserError


def loader_of(augmenter):
    """The loader inside one of batchgenerators' augmenters."""
    return augmenter.generator if hasattr(augmenter, "generator") else augmenter.data_loader


def unlabeled_batch_size_here(trainer) -> int:
    """Unlabeled patches per step of this process.

    Raises:
        UserError: fewer patches than processes.
    """
    size = trainer.unlabeled_batch_size
    if size is None:
        return trainer.batch_size
    ranks = dist.get_world_size() if trainer.is_ddp else 1
    if size < ranks:
        raise UserError(
            f"{type(trainer).__name__}.unlabeled_batch_size is {size}, must be at least 1 for each of {ranks} process(es)"
        )
    return size // ranks + (trainer.local_rank < size % ranks)


def refuse_single_patches(trainer, kind: str = "unlabeled") -> None:
    """For methods that mix patches with one another: refuse steps with a single one in this process.

    Args:
        kind: which patches are mixed, "unlabeled" or "labeled".

    Raises:
        UserError: with what to set.
    """
    here = trainer.batch_size if kind == "labeled" else unlabeled_batch_size_here(trainer)
    if here < 2:
        ranks = dist.get_world_size() if trainer.is_ddp else 1
        remedy = f"Set unlabeled_batch_size = {2 * ranks} or more in a subclass"
        if kind == "labeled":
            remedy = f"Set batch_size = {2 * ranks} or more in the plans, train with fewer processes (-num_gpus)"
        raise UserError(
            f"{type(trainer).__name__} mixes {kind} patches with one another, and each process has {here} of them in a step. "
            f"{remedy}, or plan with a larger -gpu_memory_target."
        )


def two_streams(trainer, augmenter, pool: UnlabeledPool) -> TwoStreamLoader:
    """What the training workers shall run: the labeled loader, changed by the method's seams, and unlabeled and further ones.

    Tells the trainer the names of its views.
    """
    labeled = loader_of(augmenter)
    method = type(trainer).__name__
    transforms = trainer.labeled_transforms(_transforms_of(labeled, trainer))
    labeled.transforms = ComposeTransforms(list_of(f"{method}.labeled_transforms", transforms, "transforms"))
    probabilities = trainer.case_probabilities(labeled.indices)
    if probabilities is not None:
        probabilities = distribution(probabilities, labeled.indices, "labeled")
    labeled.sampling_probabilities = probabilities
    geometry, intensity = split_transforms(labeled.transforms)
    unlabeled, further = None, {}
    if pool.cases:
        unlabeled = trainer.unlabeled_loader(labeled)
        if unlabeled is None:
            views = views_of(f"{method}.unlabeled_views", trainer.unlabeled_views(intensity))
            unlabeled = _unlabeled_loader(trainer, labeled, geometry, views)
            trainer.view_names = tuple(unlabeled.transforms.views)
        streams_of = by_name(f"{method}.further_unlabeled", trainer.further_unlabeled(intensity), "dictionary of views")
        for name, views in streams_of.items():
            views = views_of(f"{method}.further_unlabeled, '{name}'", views)
            further[name] = _unlabeled_loader(trainer, labeled, geometry, views)
            trainer.further_view_names[name] = tuple(views)
    if isinstance(unlabeled, UnlabeledLoader) and trainer.near_foreground is not None:
        _look_for_rare_foreground(trainer, labeled, unlabeled)
    streams = by_name(
        f"{method}.further_streams", trainer.further_streams(labeled), "loader of nnU-Net's", nnUNetDataLoader
    )
    extras = function_of(f"{method}.labeled_extras", trainer.labeled_extras(), "the labeled target")
    if extras is not None:
        extras = partial(extras_of, f"{method}.labeled_extras", extras, tuple(streams))
    labeled_views = trainer.labeled_views(intensity)
    if labeled_views is not None:  # last: the other loaders are made of the transforms of one image
        labeled_views = views_of(f"{method}.labeled_views", labeled_views)
        labeled.transforms = with_views(labeled.transforms, labeled_views)
        trainer.labeled_view_names = tuple(labeled_views)
    return TwoStreamLoader(labeled, unlabeled, extras, streams, further, pool if pool.cases else None)


def _look_for_rare_foreground(trainer, labeled: nnUNetDataLoader, unlabeled: UnlabeledLoader) -> None:
    """Sets `trainer.foreground_is_rare`; then unlabeled patches lie near foreground as well, in `trainer.places`.

    Not with an ignore label: sparse labels show less foreground than there is.
    """
    if trainer.label_manager.has_ignore_label:
        return
    shown = share_with_foreground(unlabeled, labeled._data, trainer.targets, trainer.annotates)
    trainer.foreground_is_rare = shown < SELDOM
    if not trainer.foreground_is_rare:
        return
    text = f"{shown:.0%} of random patches show foreground (estimated on labeled cases)"
    if trainer.near_foreground > 0:
        trainer.places = FoundPlaces(trainer.cases.folders, trainer.num_objects)
        unlabeled.draw_near(trainer.places, trainer.near_foreground)
        text += f": {trainer.near_foreground:.0%} of the unlabeled ones will lie near foreground that was found there"
    trainer.print_to_log_file(f"{text}.")


def _transforms_of(labeled: nnUNetDataLoader, trainer) -> list[BasicTransform]:
    if not isinstance(labeled.transforms, ComposeTransforms):
        raise NotImplementedError(
            f"{type(trainer).__name__}: training transforms of type {type(labeled.transforms).__name__} cannot be taken "
            "apart into geometry and intensity; ComposeTransforms can."
        )
    return list(labeled.transforms.transforms)


def _unlabeled_loader(
    trainer,
    labeled: nnUNetDataLoader,
    geometry: Sequence[BasicTransform],
    views: Mapping[str, Sequence[BasicTransform]],
) -> UnlabeledLoader:
    """Unlabeled patches of the labeled loader's sizes, through the same geometry."""
    first = 1 if labeled.patch_size_was_2d else 0
    masked_channels = [i for i, masked in enumerate(trainer.configuration_manager.use_mask_for_norm) if masked]
    return UnlabeledLoader(
        UnlabeledDataset(trainer.cases.folders),
        unlabeled_batch_size_here(trainer),
        labeled.patch_size[first:],
        labeled.final_patch_size[first:],
        trainer.label_manager,
        UnlabeledViews(geometry, views, masked_channels),
    )
