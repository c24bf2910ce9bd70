"""The trainers, one published method per file, grouped by the kind of label that they learn from.

Every class is imported from here, `from nnunet_ssl.trainers import nnUNetTrainerMeanTeacher`; the file is read when the class
is asked for. The list is `__init__.pyi`, which editors and type checkers read too. In which file a class stands may change.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
