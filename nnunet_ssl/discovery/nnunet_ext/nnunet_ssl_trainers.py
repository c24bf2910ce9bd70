"""The only file that nnU-Net's look-up imports; it hands out the trainers of the installed package.

nnU-Net forgets this module after each look-up. The classes live in modules it does not forget, so what it finds is what one
imports. Nothing else may lie in this folder.
"""

from nnunet_ssl.discovery.variants import find_trainer, trainer_classes

globals().update(trainer_classes())


def __getattr__(name):
    return find_trainer(name)
