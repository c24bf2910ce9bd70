"""Semi- and weakly supervised training for nnU-Net."""

from pathlib import Path

# In a source tree the trainers, converters and plans lie beside this package, not in it. Python started there finds this
# folder before an installed package, so it must lead to them.
_checkout = Path(__file__).resolve().parents[1]
if (_checkout / "pyproject.toml").is_file() and (_checkout / "trainers").is_dir():
    __path__.append(str(_checkout))
