"""What a method's step works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor


@dataclass
class UnlabeledPatches:
    """Patches of a further stream of unlabeled images, see the trainer's seam `further_unlabeled`.

    Attributes:
        views: by name, each `(U, C, *spatial)`, with the same geometry.
        inside: `(U, 1, *spatial)` bool, as in `SSLBatch`.
        keys: case identifiers.
    """

    views: dict[str, Tensor]
    inside: Tensor
    keys: Sequence[str]

    @property
    def images(self) -> Tensor:
        """The first view."""
        return next(iter(self.views.values()))


@dataclass
class SSLBatch:
    """One step's patches on the training device.

    Attributes:
        labeled: images `(L, C, *spatial)`; of the first view where the method has several.
        labeled_views: these views by name, each `(L, C, *spatial)`, with the same geometry; empty without the seam `labeled_views`.
        target: nnU-Net's target of the labeled images: a list with one tensor `(L, 1 or regions, *spatial)` per scale with
            deep supervision, highest resolution first; a single tensor without.
        keys: case identifiers of the labeled patches.
        labeled_inside: `(L, 1, *spatial)` bool, False in the padding of labeled patches, which nnU-Net's target has as
            background; None for trainers that do not ask for it (those for weak labels do).
        unlabeled: images `(U, C, *spatial)` of the first view; None when the step has no unlabeled part.
        inside: `(U, 1, *spatial)` bool, False in padding (and, where plans normalize inside a mask, outside this mask). None
            where the method draws unlabeled patches with labels.
        unlabeled_target: like `target`, of the unlabeled patches, where the method draws them with labels; else None.
        views: all views by name, each `(U, C, *spatial)`, with the same geometry.
        unlabeled_keys: case identifiers of the unlabeled patches.
        unlabeled_centers: int `(U, 3)` on the CPU, the voxel of the preprocessed image in the middle of each unlabeled patch; None
            where the method draws unlabeled patches with labels.
        extras: what the method's `labeled_extras` made of the labeled target, and the targets of its `further_streams`, by name.
        further: what the method's `further_unlabeled` draws, by name.
        perturbed: filled by the default `terms` after `register_second_decoding`: the student's logits of the unlabeled patches
            from perturbed features, a list with one tensor per scale.
        logits: filled by the default `terms`: name of a supervised network -> its logits on the unlabeled patches, a list
            with one tensor per scale, highest resolution first.
        labeled_logits: the same of the labeled patches.
    """

    labeled: Tensor
    target: Tensor | list[Tensor]
    keys: Sequence[str]
    labeled_inside: Tensor | None = None
    unlabeled: Tensor | None = None
    inside: Tensor | None = None
    unlabeled_target: Tensor | list[Tensor] | None = None
    views: dict[str, Tensor] = field(default_factory=dict)
    unlabeled_keys: Sequence[str] = ()
    unlabeled_centers: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)
    labeled_views: dict[str, Tensor] = field(default_factory=dict)
    further: dict[str, UnlabeledPatches] = field(default_factory=dict)
    perturbed: list[Tensor] | None = None
    logits: dict[str, list[Tensor]] = field(default_factory=dict)
    labeled_logits: dict[str, list[Tensor]] = field(default_factory=dict)

    @property
    def num_labeled(self) -> int:
        return self.labeled.shape[0]

    @property
    def num_unlabeled(self) -> int:
        return 0 if self.unlabeled is None else self.unlabeled.shape[0]

    @property
    def images(self) -> Tensor:
        """Labeled, then unlabeled images, `(L + U, C, *spatial)`; joined anew at each call, as methods may change `unlabeled`."""
        return torch.cat((self.labeled, self.unlabeled))

    def labeled_part(self, scales: Sequence[Tensor]) -> list[Tensor]:
        """Of each of `scales` `(L + U, C, *spatial)` what belongs to the labeled images."""
        return [z[: self.num_labeled] for z in scales]

    def unlabeled_part(self, scales: Sequence[Tensor]) -> list[Tensor]:
        """Of each of `scales` `(L + U, C, *spatial)` what belongs to the unlabeled images."""
        return [z[self.num_labeled :] for z in scales]

    def keep_logits(self, name: str, scales: Sequence[Tensor]) -> None:
        """Note down what the network `name` gives for `images`, in `labeled_logits` and `logits`."""
        self.labeled_logits[name] = self.labeled_part(scales)
        self.logits[name] = self.unlabeled_part(scales)

    def counted(self, annotated: Tensor | None = None) -> Tensor:
        """The labeled voxels and the inside of the unlabeled images: bool `(L + U, 1, *spatial)`.

        Args:
            annotated: bool `(L, 1, *spatial)`, which voxels of the labeled images count; None: all.
        """
        if annotated is None:
            annotated = torch.ones_like(self.labeled[:, :1], dtype=torch.bool)
        return torch.cat((annotated, self.inside))

    def without_unlabeled(self) -> SSLBatch:
        """What belongs to the labeled patches."""
        return SSLBatch(
            self.labeled,
            self.target,
            self.keys,
            self.labeled_inside,
            extras=self.extras,
            labeled_views=self.labeled_views,
        )

    @classmethod
    def from_loader(
        cls,
        batch: dict,
        view_names: Sequence[str],
        device: torch.device,
        labeled_view_names: Sequence[str] = (),
        further_view_names: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> SSLBatch:
        """Move a batch of `TwoStreamLoader` to `device` without waiting for the copy.

        Args:
            view_names, labeled_view_names: what is stacked along the channels of unlabeled and labeled images; none: one image.
            further_view_names: the same of each further stream.
        """

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        def move_target(target: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
            return [move(t) for t in target] if isinstance(target, list) else move(target)

        def views_of(images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
            return dict(zip(names, move(images).chunk(len(names), dim=1), strict=True))

        if labeled_view_names:
            labeled_views = views_of(batch["data"], labeled_view_names)
            moved = cls(labeled_views[labeled_view_names[0]], move_target(batch["target"]), batch["keys"])
            moved.labeled_views = labeled_views
        else:
            moved = cls(move(batch["data"]), move_target(batch["target"]), batch["keys"])
        moved.extras = {k.removeprefix("extra/"): move(v) for k, v in batch.items() if k.startswith("extra/")}
        if "labeled_inside" in batch:
            moved.labeled_inside = move(batch["labeled_inside"])
        if "unlabeled" in batch:
            moved.views = views_of(batch["unlabeled"], view_names)
            moved.unlabeled = moved.views[view_names[0]]
            if "unlabeled_target" in batch:
                moved.unlabeled_target = move_target(batch["unlabeled_target"])
            else:
                moved.inside = move(batch["inside"])
                moved.unlabeled_centers = batch.get("unlabeled_centers")
            moved.unlabeled_keys = batch["unlabeled_keys"]
            for name, names in further_view_names.items():
                images, inside, keys = (batch[f"further/{name}/{k}"] for k in ("unlabeled", "inside", "unlabeled_keys"))
                moved.further[name] = UnlabeledPatches(views_of(images, names), move(inside), keys)
        return moved
