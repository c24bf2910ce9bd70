"""The only file that nnU-Net's look-up imports; it hands out the trainers of the installed package.

nnU-Net forgets this module after each look-up. The classes live in modules it does not forget, so what it finds is what one
imports. Nothing else may lie in this folder.
"""

from nnunet_ssl.discovery.variants import find_trainer, near_names, trainer_classes

globals().update(trainer_classes())


def __getattr__(name):
    try:
        return find_trainer(name)
    except AttributeError:
        if name.startswith("nnUNetTrainer") and (near := near_names(name)):
            # among what nnU-Net prints of its search, which may go on in other folders
            print(f"  nnunet_ssl has no {name}. It has {', '.join(near)}.")
        raise
