"""Plans as nnU-Net writes them, beside the preprocessed data or in the folder of a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunet_ssl.data.json_files import expect, read_json


def read_plans(file: Path, remedy: str) -> dict[str, Any]:
    """The content of a file of plans, for nnU-Net's `PlansManager`.

    Args:
        remedy: how the user puts a faulty file right, for the message.

    Raises:
        UserError: as `read_json`, or the content is none of nnU-Net's plans.
    """
    content = read_json(file, remedy=remedy)
    found = content.get("configurations")
    fine = isinstance(found, dict) and all(isinstance(configuration, dict) for configuration in found.values())
    expect(fine, file, "configurations", found, "an object with an object for each configuration", remedy)
    for key in ("plans_name", "dataset_name", "image_reader_writer"):
        expect(isinstance(content.get(key), str), file, key, content.get(key), "a text", remedy)
    return content
