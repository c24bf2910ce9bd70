"""`nnunet_ssl trainers`: what can be given to `-tr`."""

from __future__ import annotations

import argparse
import inspect

from nnunet_ssl.errors import UserError

DESCRIPTION = (
    "List the trainers of this package. Each also exists with the suffixes _<N>epochs, _<M>iters (iterations per epoch) "
    "and _seed<S>, in this order; so does nnU-Net's own nnUNetTrainer."
)
EXAMPLE = """example:
  nnunet_ssl trainers
  nnunet_ssl trainers --attributes nnUNetTrainerMeanTeacher
  nnUNetv2_train 101 3d_fullres 0 -tr nnUNetTrainerMeanTeacher_100epochs_seed2"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--attributes",
        metavar="NAME",
        help="[OPTIONAL] Print the hyper-parameters of this trainer and their values: what a subclass may set.",
    )


def _table(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def attribute_rows(name: str) -> list[tuple[str, str]]:
    """(hyper-parameter, value) of the trainer called `name`, which may have suffixes or be nnU-Net's own."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    from nnunet_ssl.discovery.variants import find_trainer, trainer_classes
    from nnunet_ssl.engine.configurable import ConfigurableTrainer, allowed_hyperparameters, declared_hyperparameters

    try:
        cls = find_trainer(name)
    except AttributeError:
        try:
            cls = recursive_find_trainer_class_by_name(name)
        except RuntimeError as error:
            raise UserError(f"no trainer is called '{name}'. Allowed: {', '.join(trainer_classes())}.") from error
    if not issubclass(cls, ConfigurableTrainer):
        raise UserError(
            f"{name} is nnU-Net's own trainer: its settings are assigned in its constructor, not by attributes. "
            f"Allowed: {', '.join(trainer_classes())}, subclasses of them, and names with a suffix."
        )
    values = declared_hyperparameters(cls)
    return [(n, repr(values[n]) if n in values else "nnU-Net's default") for n in allowed_hyperparameters(cls)]


def run(args: argparse.Namespace) -> None:
    if args.attributes:
        print(_table(attribute_rows(args.attributes)))
        return
    from nnunet_ssl.discovery.variants import trainer_classes

    print(_table([(name, (inspect.getdoc(cls) or "").split("\n")[0]) for name, cls in trainer_classes().items()]))
