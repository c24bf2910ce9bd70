"""Dense labels that lie beside sparse or partial ones in a raw data set."""

from __future__ import annotations

from nnunet_ssl.data.annotated_classes import KEY as PARTIAL_LABELS
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.errors import UserError, some

RAW_FOLDER = "labelsTr_dense"


def dense_files(raw: RawDataset) -> dict[str, str]:
    """Training case -> its dense label file.

    Raises:
        UserError: a file of `labelsTr_dense` belongs to no training case, or labels are neither sparse nor partial.
    """
    folder, ending = raw.folder / RAW_FOLDER, raw.file_ending
    files = (
        {file.name[: -len(ending)]: str(file) for file in sorted(folder.glob(f"*{ending}"))} if folder.is_dir() else {}
    )
    unknown = sorted(set(files) - set(raw.labeled))
    if unknown:
        raise UserError(
            f"{folder} holds label maps of {some(unknown, 5)}, which are not in imagesTr. Rename or remove them."
        )
    if files and "ignore" not in raw.dataset_json["labels"] and PARTIAL_LABELS not in raw.dataset_json:
        raise UserError(
            f"{folder} holds dense labels, which are for validation where labelsTr is sparse or partial, but the labels of "
            f"{raw.folder / 'dataset.json'} have no 'ignore', and it has no key '{PARTIAL_LABELS}'. Add what fits, or remove the "
            "folder."
        )
    return files
