"""Plans as nnU-Net writes them, beside the preprocessed data or in the folder of a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunet_ssl.data.json_files import expect, read_json
from nnunet_ssl.errors import UserError


def read_plans(file: Path, remedy: str) -> dict[str, Any]:
    """The content of a file of plans, for nnU-Net's `PlansManager`.

    Args:
        remedy: how the user puts a faulty file right, for the message.

    Raises:
        UserError: as `read_json`, or the content is none of nnU-Net's plans.
    """
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    content = read_json(file, remedy=remedy)
    found = content.get("configurations")
    fine = isinstance(found, dict) and all(isinstance(configuration, dict) for configuration in found.values())
    expect(fine, file, "configurations", found, "an object with an object for each configuration", remedy)
    for key in ("plans_name", "dataset_name", "image_reader_writer"):
        expect(isinstance(content.get(key), str), file, key, content.get(key), "a text", remedy)
    try:
        recursive_find_reader_writer_by_name(content["image_reader_writer"])
    except RuntimeError as error:
        raise UserError(f"{file}: key 'image_reader_writer': {error} {remedy}") from error
    return content
