"""The key `size_bounds` of dataset.json: how small and how large each object can be.

    "size_bounds": {"left ventricle": {"mm2": [60, 3000], "mm3": [20000, 250000]}}

mm2: area in one slice, for 2d configurations; mm3: volume in one image, for 3d ones. Objects that are not named have no bounds.
"""

from __future__ import annotations

from numbers import Real

from nnunet_ssl.data.label_values import label_values
from nnunet_ssl.errors import UserError

KEY = "size_bounds"


def read_size_bounds(dataset_json: dict, dimension: int, file: str) -> dict[int, tuple[float, float]]:
    """Channel of the network's output -> (lowest, highest) size in mm^dimension.

    Args:
        dataset_json: the content of dataset.json.
        dimension: 2 or 3, of the configuration.
        file: where it comes from, for messages.

    Raises:
        UserError: the key is missing, names something else than a foreground class or region, lacks the unit, or holds
            something else than two increasing numbers.
    """
    unit = f"mm{dimension}"
    channels = _channels(dataset_json, file)
    example = f'"{KEY}": {{"{next(iter(channels))}": {{"{unit}": [lowest, highest]}}}}'
    where = f"{KEY!r} of {file} (and of dataset.json in nnUNet_raw, from which planning copies it)"
    named = dataset_json.get(KEY)
    if not isinstance(named, dict) or not named:
        raise UserError(f"{where} must say how large objects can be, found {named!r}. Add {example}.")
    unknown = sorted(set(named) - set(channels))
    if unknown:
        raise UserError(f"{where} names {', '.join(unknown)}; foreground labels are {', '.join(channels)}.")
    bounds = {}
    for name, of_object in named.items():
        found = of_object.get(unit) if isinstance(of_object, dict) else None
        numbers = isinstance(found, (list, tuple)) and len(found) == 2 and all(isinstance(x, Real) for x in found)
        if not numbers or not 0 <= found[0] <= found[1] or found[1] == 0:
            raise UserError(
                f"{where}: {name!r} needs {unit!r} for a {dimension}d configuration, two increasing numbers of at least 0, "
                f"found {of_object!r}. Write it as {example}."
            )
        bounds[channels[name]] = (float(found[0]), float(found[1]))
    return bounds


def _channels(dataset_json: dict, file: str) -> dict[str, int]:
    """Name of each foreground class or region -> its channel, in nnU-Net's order."""
    labels = {
        n: value for n, value in label_values(dataset_json, file).items() if n != "ignore" and value not in (0, [0])
    }
    if any(isinstance(value, list) for value in labels.values()):
        return {name: channel for channel, name in enumerate(labels)}
    return {name: value for name, value in labels.items() if isinstance(value, int)}
