"""Hard label maps from logits, and filters that keep the largest connected components."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from nnunet_ssl.predictions.probabilities import most_probable, probabilities


def hard_labels(logits: Tensor, activation: str = "softmax") -> Tensor:
    """The label map that logits `(B, C, *spatial)` predict, in the form of nnU-Net's targets.

    "softmax": the most probable class (the lowest of equals), int64 `(B, 1, *spatial)`. "sigmoid": regions with a probability
    above 0.5, as nnU-Net decides, bool `(B, C, *spatial)`. No gradient and no threshold of confidence.

    Raises:
        ValueError: an unknown activation.
    """
    if activation == "softmax":
        return most_probable(logits)
    if activation == "sigmoid":
        return logits > 0
    raise ValueError(f"activation must be 'softmax' or 'sigmoid', got {activation!r}")


def label_and_confidence(p: Tensor, activation: str = "softmax") -> tuple[Tensor, Tensor]:
    """The label map of probabilities and how probable it is: `max_c p_c`, of a region `max(p, 1 - p)`."""
    p = p.detach()
    if activation == "softmax":
        confidence, label = p.max(1, keepdim=True)
        return label, confidence
    return p > 0.5, torch.maximum(p, 1 - p)


def objects_shown(labels: Tensor, counted: Tensor, num_objects: int, activation: str = "softmax") -> Tensor:
    """Which foreground classes or regions occur among the voxels that count: bool `(B, num_objects)`.

    Args:
        labels, counted: as from `sure_labels`.
    """
    if activation == "sigmoid":
        return (labels & counted).flatten(2).any(2)
    classes = torch.where(counted, labels, 0).flatten(1)
    return torch.zeros(len(labels), num_objects + 1, dtype=torch.bool, device=labels.device).scatter_(1, classes, True)[
        :, 1:
    ]


def sure_labels(logits: Tensor, threshold: float, activation: str = "softmax") -> tuple[Tensor, Tensor]:
    """`hard_labels`, and where the network is sure of them: `max_c p_c >= threshold`, per region `max(p, 1 - p) >= threshold`.

    Args:
        logits: `(B, C, *spatial)`.

    Returns:
        the labels, and bool of their shape. No gradient.
    """
    labels, confidence = label_and_confidence(probabilities(logits.detach(), activation), activation)
    return labels, confidence >= threshold


def _largest(mask: np.ndarray, structure: np.ndarray) -> np.ndarray:
    components, count = ndimage.label(mask, structure)
    if count < 2:
        return mask
    sizes = np.bincount(components.ravel())
    return components == 1 + np.argmax(sizes[1:])


def largest_components(labels: Tensor, connectivity: int | None = None) -> Tensor:
    """Per sample and per class (or region) only the largest connected component; what is dropped becomes background.

    Right for one organ per class, wrong for lesions of which there may be several. Works on the host: the label map is copied
    there and back once. Of components of equal size the one whose first voxel comes first is kept.

    Args:
        labels: integer classes `(B, 1, *spatial)` with 0 the background, or bool regions `(B, R, *spatial)`.
        connectivity: how many coordinates of neighbors may differ: 1 faces ... number of axes (default: faces, edges and corners;
            8 neighbors in 2D, 26 in 3D).

    Returns:
        label map of the same shape and type, on the same device.

    Raises:
        ValueError: several channels of integers, or a connectivity that the image does not have.
    """
    axes = labels.ndim - 2
    connectivity = axes if connectivity is None else connectivity
    if not 1 <= connectivity <= axes:
        raise ValueError(f"connectivity must be in [1, {axes}] for {axes}D images, got {connectivity}")
    if labels.dtype != torch.bool and labels.shape[1] != 1:
        raise ValueError(f"a map of classes must have one channel, got shape {tuple(labels.shape)}")
    structure = ndimage.generate_binary_structure(axes, connectivity)
    found = labels.detach().to(torch.int16).cpu().numpy()  # the copy is what a GPU waits for: small numbers
    kept = np.zeros_like(found)
    for sample, result in zip(found.reshape(-1, *found.shape[2:]), kept.reshape(-1, *found.shape[2:])):
        for value, box in enumerate(ndimage.find_objects(sample), start=1):
            if box is not None:
                result[box][_largest(sample[box] == value, structure)] = value
    return torch.from_numpy(kept).to(labels.device, labels.dtype)


def start_largest_components(labels: Tensor, connectivity: int | None = None) -> Callable[[], Tensor]:
    """Begin `largest_components` in a thread and go on: the step needs its result after the forward pass that comes next.

    A GPU is not waited for either: the thread waits until the label map has arrived on the host.

    Args:
        labels, connectivity: as in `largest_components`.

    Returns:
        a function that waits for the result and returns it; what `largest_components` raises is raised there.
    """
    found = labels.detach() if labels.dtype == torch.bool else labels.detach().to(torch.int16)
    on_gpu = found.is_cuda
    host = torch.empty(found.shape, dtype=found.dtype, pin_memory=on_gpu)
    host.copy_(found, non_blocking=True)
    arrived = torch.cuda.Event() if on_gpu else None
    if arrived is not None:
        arrived.record()

    def work() -> Tensor:
        if arrived is not None:
            arrived.synchronize()
        kept = largest_components(host, connectivity)
        return kept.pin_memory() if on_gpu else kept  # else the copy back would wait for all that the GPU has to do

    executor = ThreadPoolExecutor(1)
    pending = executor.submit(work)
    executor.shutdown(wait=False)
    return lambda: pending.result().to(labels.device, non_blocking=True).to(labels.dtype)


def largest_structure(labels: Tensor, classes: Sequence[int] | None = None, connectivity: int = 1) -> Tensor:
    """Only what belongs to the largest component of its class and to the largest component of all classes together.

    For parts of one organ, such as the chambers and the wall of a heart. A voxel that fails either condition becomes
    background. Zhang & Zhuang, "CycleMix", CVPR 2022; official code: `keep_largest_connected_components` of BWGZK/CycleMix.

    Args:
        labels: integer classes `(B, 1, *spatial)` with 0 the background.
        classes: the parts of the organ; all but the background if None. Other classes stay as they are.
        connectivity: as in `largest_components`; official: 1 (faces).

    Returns:
        label map of the same shape and type, on the same device.
    """
    part = labels > 0 if classes is None else torch.isin(labels, labels.new_tensor(list(classes)))
    parts = torch.where(part, labels, 0)
    kept = largest_components(parts, connectivity) * largest_components(part, connectivity)
    return torch.where(part, kept, labels)
