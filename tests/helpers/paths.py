"""Where tests and benchmarks find the data pack that lies beside a checkout."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = REPOSITORY.parent / "shared"


def shared_dir(*parts: str) -> Path:
    """The path `../shared/<parts>` beside the checkout; the test is skipped, with the name of what is missing, if absent."""
    import pytest

    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"../shared/{'/'.join(parts)} is not beside this checkout")
    return path
