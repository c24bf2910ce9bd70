"""Synthetic left-atrium images, so that everything can be tried without downloading data.

A phantom is not a simulation of the MR physics. It has what makes few labels generalize imperfectly: the shape of the
"atrium" varies (a union of ellipsoids with veins and an appendage, displaced at low frequency), two neighbors (a
"ventricle" and an "aorta") are as bright as it is, and contrast, bright wall, bias field and noise change from case to
case. A handful of labeled cases covers only a part of this range; the unlabeled ones show the rest of it.

The files lie as in the official archive of the 2018 Atrial Segmentation Challenge, so that `nnunet_ssl convert LA`
reads them as it reads the real data:

    <root>/Training Set/<20-character ID>/lgemri.nrrd     image, uint8
                                          laendo.nrrd     cavity mask, uint8, {0, 255}
    <root>/train.list   <root>/test.list                  one ID per line
"""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import binary_dilation, gaussian_filter, label

from nnunet_ssl.errors import UserError

SPACING_MM = 0.625
SMALLEST_AXIS = 16
_TRAIN, _TEST = 0, 1


def _smooth_noise(shape: tuple[int, ...], waves: int, rng: np.random.Generator) -> np.ndarray:
    """A random cosine series with up to `waves` half waves along every axis; zero mean, unit standard deviation."""
    noise = rng.standard_normal([waves + 1] * len(shape))
    for n in shape:  # every contraction takes the first axis away and adds its voxels as the last one
        cosines = np.cos(np.pi * np.outer(np.arange(waves + 1), (np.arange(n) + 0.5) / n))
        noise = np.tensordot(noise, cosines, axes=(0, 0))
    return (noise - noise.mean()) / noise.std()


def _ellipsoid(grid: np.ndarray, center: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """1 in the center, 0 on the surface, negative outside. `grid`: (3, *shape) coordinates in [-1, 1]."""
    offset = (grid - center.reshape(3, 1, 1, 1)) / radii.reshape(3, 1, 1, 1)
    return 1 - np.sqrt((offset**2).sum(0))


def _tube(grid: np.ndarray, start: np.ndarray, direction: np.ndarray, length: float, radius: float) -> np.ndarray:
    """Like `_ellipsoid` for a straight tube from `start` along `direction`."""
    offset = grid - start.reshape(3, 1, 1, 1)
    along = np.clip(np.tensordot(direction, offset, 1), 0, length)
    nearest = direction.reshape(3, 1, 1, 1) * along
    return 1 - np.sqrt(((offset - nearest) ** 2).sum(0)) / radius


def make_phantom(rng: np.random.Generator, shape: tuple[int, int, int] = (64, 64, 32)) -> tuple[np.ndarray, np.ndarray]:
    """One image and the mask of its atrium.

    Args:
        rng: every random number is drawn from it, so equal states give equal phantoms.
        shape: voxels along x, y and z; at least 16 each.

    Returns:
        image (x, y, z) uint8 and mask (x, y, z) uint8 in {0, 255}.

    Raises:
        UserError: an axis is shorter than 16 voxels.
    """
    if min(shape) < SMALLEST_AXIS:
        raise UserError(f"A phantom of {shape} voxels is too small: every axis needs at least {SMALLEST_AXIS} voxels.")
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    # a displacement of the coordinates keeps neighbors neighbors: atrium, ventricle and aorta bend together
    grid = grid + 0.06 * np.stack([_smooth_noise(shape, 3, rng) for _ in range(3)])

    center = rng.uniform(-0.14, 0.14, 3)
    radii = np.array([0.42, 0.30, 0.46]) * rng.uniform(0.75, 1.2, 3)
    parts = [_ellipsoid(grid, center, radii)]
    for side in (-1, -1, 1, 1):  # pulmonary veins, two on either side
        direction = np.array([side, rng.uniform(0.0, 0.7), rng.uniform(-0.6, 0.6)])
        direction /= np.linalg.norm(direction)
        length, radius = radii[0] * rng.uniform(0.9, 1.5), rng.uniform(0.08, 0.13)
        parts.append(_tube(grid, center + 0.5 * radii * direction, direction, length, radius))
    toward = np.array([rng.uniform(0.5, 0.9), rng.uniform(-0.9, -0.3), rng.uniform(-0.4, 0.4)])
    parts.append(_ellipsoid(grid, center + radii * toward, rng.uniform(0.14, 0.26, 3)))  # appendage
    atrium = np.max(parts, axis=0) + 0.08 * _smooth_noise(shape, 5, rng) > 0
    # the neighbors fade out before the border of the image, the atrium must end inside of it
    inside = np.zeros(shape, bool)
    inside[tuple(slice(2, -2) for _ in shape)] = True
    atrium &= inside
    components, _ = label(atrium)  # veins that the rough surface cut off are not blood at all
    atrium = components == np.argmax(np.bincount(components.ravel())[1:]) + 1

    wall = binary_dilation(atrium, iterations=2) & ~atrium
    ventricle_center = center + np.array([rng.uniform(-0.2, 0.4), -radii[1] - rng.uniform(0.42, 0.52), 0.0])
    ventricle = _ellipsoid(grid, ventricle_center, rng.uniform([0.40, 0.32, 0.5], [0.55, 0.42, 0.8])) > 0
    aorta_start = center + np.array([rng.uniform(-0.5, -0.1), radii[1] + rng.uniform(0.26, 0.34), -1.5])
    aorta = _tube(grid, aorta_start, np.array([0.0, 0.0, 1.0]), 3.0, rng.uniform(0.13, 0.18)) > 0
    body = _ellipsoid(grid, center * 0.3, np.array([1.05, 0.95, 1.6])) + 0.06 * _smooth_noise(shape, 4, rng) > 0
    neighbors = (ventricle | aorta) & ~atrium & ~wall

    # intensities on a scale where the blood is about 0.6; muscle of one case can be as bright as blood of another
    blood, lung = rng.uniform(0.45, 0.75), rng.uniform(0.02, 0.12)
    muscle = blood * rng.uniform(0.40, 0.75)
    image = np.full(shape, lung)
    image[body] = muscle
    image += body * 0.05 * _smooth_noise(shape, 8, rng)
    image[neighbors] = blood * rng.uniform(0.9, 1.1)
    image[atrium] = blood
    image[wall] = muscle
    enhanced = wall & (_smooth_noise(shape, 5, rng) > rng.uniform(0.0, 1.2))
    image[enhanced] = blood * rng.uniform(1.0, 1.5)

    image = gaussian_filter(image, 0.6)  # partial volume
    image = image * np.exp(rng.uniform(0.05, 0.25) * _smooth_noise(shape, 1, rng))  # bias field of the coil
    sigma = rng.uniform(0.04, 0.10)
    image = np.hypot(image + sigma * rng.standard_normal(shape), sigma * rng.standard_normal(shape))  # Rician noise
    image = np.clip(image / np.percentile(image, 99.8), 0, 1) ** rng.uniform(0.75, 1.3)
    return np.round(255 * image).astype(np.uint8), np.where(atrium, 255, 0).astype(np.uint8)


def _write_nrrd(array: np.ndarray, file: Path) -> None:
    """`array`: (x, y, z). x is the fastest axis of the file, as in the challenge data."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing((SPACING_MM,) * 3)
    sitk.WriteImage(image, str(file), True)


def write_la_phantoms(
    root: str | Path, n_train: int, n_test: int, seed: int = 0, shape: tuple[int, int, int] = (64, 64, 32)
) -> tuple[list[str], list[str]]:
    """Write `n_train` + `n_test` phantoms in the layout of the LA challenge.

    Case k of a seed is the same whatever `n_train` and `n_test` are.

    Args:
        root: new or empty folder.
        n_train, n_test: number of cases named in `train.list` and `test.list`.
        seed: equal seeds write equal files.
        shape: voxels along x, y and z.

    Returns:
        The ids of the training cases and of the test cases, in the order of the lists.

    Raises:
        UserError: `root` is not empty, or `shape` is too small.
    """
    root = Path(root)
    if root.exists() and any(root.iterdir()):
        raise UserError(
            f"{root} is not empty. Phantoms are written to a new or empty folder; name another one or remove it."
        )
    letters = np.array(list(string.ascii_uppercase + string.digits))
    lists: tuple[list[str], list[str]] = ([], [])
    for part, number in ((_TRAIN, n_train), (_TEST, n_test)):
        for index in range(number):
            rng = np.random.default_rng([seed, part, index])
            case = "".join(rng.choice(letters, 20))
            image, mask = make_phantom(rng, shape)
            folder = root / "Training Set" / case
            folder.mkdir(parents=True)
            _write_nrrd(image, folder / "lgemri.nrrd")
            _write_nrrd(mask, folder / "laendo.nrrd")
            lists[part].append(case)
    for name, cases in zip(("train.list", "test.list"), lists):
        (root / name).write_text("".join(f"{case}\n" for case in cases))
    return lists
