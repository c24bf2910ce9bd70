"""`nnunet_ssl preprocess_unlabeled`: the unlabeled images of a data set that nnU-Net has planned and preprocessed."""

from __future__ import annotations

from collections.abc import Sequence

from nnunet_ssl.data.list_update import prepare_lists
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.errors import UserError
from nnunet_ssl.preprocessing.cases import preprocess_cases
from nnunet_ssl.preprocessing.dense_labels import preprocess_dense
from nnunet_ssl.preprocessing.preprocessed import get_configuration, load_plans, made_from
from nnunet_ssl.preprocessing.rounds import preprocess_rounds
from nnunet_ssl.preprocessing.unpaired_masks import preprocess_masks


def preprocess_with_plans(
    raw: RawDataset,
    plans_name: str,
    configurations: Sequence[str] | None = None,
    *,
    num_processes: int = 8,
    rehash: bool = False,
    overwrite: bool = False,
    verbose: bool = False,
    show_progress: bool = True,
) -> None:
    """Preprocess what nnU-Net's own commands leave out, as far as it is missing, with plans that exist.

    Args:
        configurations: None: every configuration of the plans whose labeled cases are preprocessed.
        rehash: read every image again instead of trusting unlabeled.json.
        overwrite: replace a different splits_final.json of the preprocessed data set by that of the raw one.
        verbose: print what the preprocessor does.

    Raises:
        UserError: unknown plans or configurations, nothing to preprocess, an image that cannot be used.
    """
    base = raw.preprocessed
    plans_manager = load_plans(base, plans_name)
    if configurations is None:
        # a cascade shares the data of the configuration it inherits from, so every folder is done once
        by_folder = {}
        for name in plans_manager.available_configurations:
            by_folder.setdefault(get_configuration(plans_manager, name).data_identifier, name)
        configurations = [name for folder, name in by_folder.items() if (base / folder).is_dir()]
        if not configurations:
            raise UserError(
                f"{base} holds preprocessed labeled cases of no configuration of {plans_name} (looked for "
                f"{', '.join(by_folder)}). Run `nnunet_ssl plan_and_preprocess -d {raw.id}`, or name "
                "configurations with -c."
            )
    for name in configurations:
        get_configuration(plans_manager, name)
    content = prepare_lists(raw, num_processes, rehash, overwrite, show_progress)
    nothing_unlabeled = not raw.unlabeled and not any(content.hidden_labels.values())
    if nothing_unlabeled and not raw.dense_files() and not raw.mask_files():
        raise UserError(
            f"{raw.folder / 'imagesUn'} holds no images, and no labels are hidden: there is nothing unlabeled in "
            f"{raw.name}. Put images CASE_0000{raw.file_ending} into imagesUn, or hide labels with "
            f"`nnunet_ssl split -d {raw.id} --labeled 0.5` (or another share)."
        )
    processes = [num_processes] * len(configurations)
    preprocess_rest(raw, content, plans_name, configurations, processes, verbose, show_progress)


def preprocess_rest(
    raw: RawDataset,
    content: UnlabeledList,
    plans_name: str,
    configurations: Sequence[str],
    num_processes: Sequence[int],
    verbose: bool,
    show_progress: bool,
) -> None:
    """Preprocess all that stock nnU-Net does not: dense labels for validation, masks without images, pseudo labels, `imagesUn`."""
    preprocess_dense(raw, content, plans_name, configurations, num_processes, verbose, show_progress)
    preprocess_masks(raw, plans_name, configurations, num_processes, verbose, show_progress)
    preprocess_rounds(raw, plans_name, configurations, num_processes, verbose, show_progress)
    if not raw.unlabeled:
        print(f"{raw.name}: imagesUn holds no images; cases with hidden labels need no preprocessing of their own.")
        return
    hashes = {case: made_from(record.sha256, raw.geometry(case)) for case, record in content.unlabeled.items()}
    for configuration, processes in zip(configurations, num_processes, strict=True):
        preprocess_cases(
            raw,
            plans_name,
            configuration,
            processes,
            cases=raw.unlabeled,
            hashes=hashes,
            verbose=verbose,
            show_progress=show_progress,
        )
