"""Ways to spoil a file, and what a command may do with it."""

from __future__ import annotations

import gzip
import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from tests.helpers.raw_data import write_image

Spoil = Callable[[Path], object]  # takes the folder of a scene
Row = tuple[str, Spoil, str]  # name, what is done, words of the message


@dataclass(frozen=True)
class Spoiled:
    """One way to spoil the files of a scene.

    Attributes:
        words: what the message of every command in `refused` has; the others do the right thing.
        options: added to the words of the command.
    """

    name: str
    spoil: Spoil
    words: str
    refused: tuple[str, ...]
    right: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scene:
    """A sound state of folders, commands that succeed there, and ways to spoil it.

    Attributes:
        write: writes the state below a folder that has nnU-Net's three, to which its variables point.
        place: the folder below it that rows spoil.
        commands: by a short name; `{root}` stands for the folder.
    """

    write: Callable[[Path], None]
    place: str
    commands: dict[str, list[str]]
    rows: list[Spoiled]


def content(data: bytes, name: str) -> Spoil:
    return lambda folder: (folder / name).write_bytes(data)


def changed_json(name: str, change: Callable[[dict], object]) -> Spoil:
    """`change` alters what the file holds in place, or returns what it shall hold."""

    def spoil(folder: Path) -> None:
        held = json.loads((folder / name).read_text())
        changed = change(held)
        (folder / name).write_text(json.dumps(held if changed is None else changed))

    return spoil


def gone(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def nothing(folder: Path) -> None:
    """For rows whose options are what is wrong."""


def broken_json(name: str) -> list[Row]:
    """Ways in which a file is not the JSON object that it should be."""

    def is_folder(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return [
        (f"{name} {what}", spoil, words)
        for what, spoil, words in (
            ("empty", content(b"", name), "not valid JSON"),
            ("trailing comma", content(b'{"labels": {"background": 0,},}', name), "not valid JSON"),
            ("cut off", content(b'{"labels": {"backgr', name), "not valid JSON"),
            ("byte order mark", content(b"\xef\xbb\xbf{}", name), "byte order mark"),
            ("Latin-1", content('{"name": "Größe"}'.encode("latin-1"), name), "not in UTF-8"),
            ("UTF-16", content('{"name": "x"}'.encode("utf-16"), name), "not in UTF-8"),
            ("nested deep", content(b"[" * 100000, name), "nested too deep"),
            ("huge number", content(b'{"numTraining": ' + b"9" * 5000 + b"}", name), "not valid JSON"),
            ("a list", content(b"[]", name), "allowed is an object"),
            ("null", content(b"null", name), "allowed is an object"),
            ("a key twice", content(b'{"labels": {}, "labels": {}}', name), "occurs twice"),
            ("a folder", is_folder, "is a folder"),
            ("missing", gone(name), "does not exist"),
        )
    ]


def voxels(name: str, change: Callable[[np.ndarray], np.ndarray], **geometry: tuple) -> Spoil:
    def spoil(folder: Path) -> None:
        image = sitk.ReadImage(str(folder / name))
        changed = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
        for key, value in geometry.items():
            getattr(changed, f"Set{key}")(value)
        sitk.WriteImage(changed, str(folder / name))

    return spoil


def nifti(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    """Voxels that SimpleITK does not write."""

    def spoil(folder: Path) -> None:
        image = nibabel.load(folder / name)
        changed = change(np.asarray(image.dataobj))
        nibabel.save(nibabel.Nifti1Image(changed, image.affine, dtype=changed.dtype), folder / name)

    return spoil


def header(name: str, offset: int, packed: bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        content = bytearray(gzip.decompress((folder / name).read_bytes()))
        content[offset : offset + len(packed)] = packed
        (folder / name).write_bytes(gzip.compress(bytes(content)))

    return spoil


def spacing(name: str, value: float) -> Spoil:
    return header(name, 76 + 4 * 2, struct.pack("<f", value))


def with_voxel(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.float64 if abs(value) > 1e38 else np.float32)
        array.flat[array.size // 2] = value
        return array

    return change


def replaced(name: str, make: Callable[[Path], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return spoil


def sheared(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        image = nibabel.load(folder / name)
        affine = image.affine.copy()
        affine[0, 1] = 0.4
        changed = nibabel.Nifti1Image(np.asarray(image.dataobj), affine)
        changed.set_sform(affine, code=1)
        changed.set_qform(None, code=0)
        nibabel.save(changed, folder / name)

    return spoil


def two_dimensional(array: np.ndarray) -> np.ndarray:
    return array[0]


def damaged(name: str) -> list[Row]:
    """Ways to spoil one NIfTI image, which every command that reads it refuses, naming the file."""
    return [
        (f"{name} {what}", spoil, words)
        for what, spoil, words in (
            ("NaN", nifti(name, with_voxel(float("nan"))), "NaN"),
            ("infinite", nifti(name, with_voxel(float("inf"))), "infinite"),
            ("beyond float32", nifti(name, with_voxel(1e300)), "float32"),
            ("complex", nifti(name, lambda a: a.astype(np.complex64)), "complex64"),
            ("RGB", nifti(name, lambda a: np.zeros(a.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])), "type"),
            ("2D", voxels(name, two_dimensional), "axes"),
            ("4D", nifti(name, lambda a: np.stack([a, a], -1)), "axes"),
            ("cut off", lambda f: (f / name).write_bytes((f / name).read_bytes()[:-900]), "cannot be read"),
            ("more announced", header(name, 42, struct.pack("<h", 99)), "announced by the header"),
            ("spacing 0", spacing(name, 0.0), "spacing"),
            ("spacing negative", spacing(name, -1.0), "spacing"),
            ("spacing NaN", spacing(name, float("nan")), "spacing"),
            ("sheared", sheared(name), "right angles"),
            ("empty file", lambda f: (f / name).write_bytes(b""), "cannot be read"),
            ("a web page", lambda f: (f / name).write_text("<html>404</html>"), "cannot be read"),
            ("dangling link", replaced(name, lambda p: p.symlink_to("/nowhere/x.nii.gz")), "is a link to"),
            ("link to itself", replaced(name, lambda p: p.symlink_to(p)), name),
            ("a pipe", replaced(name, os.mkfifo), "no regular file"),
            ("a folder", replaced(name, os.mkdir), "is a folder"),
        )
    ]


def images(name: str) -> list[Row]:
    """`damaged`, and names that nnU-Net's folders do not have."""
    return damaged(name) + [
        (f"{name} {what}", spoil, words)
        for what, spoil, words in (
            (
                "without underscore",
                lambda f: (f / name).rename((f / name).with_name("x.0000.nii.gz")),
                "number of its channel",
            ),
            ("other ending", lambda f: (f / name).rename((f / name).with_name("x_0000.nii")), "Rename or convert it"),
            ("upper case", lambda f: (f / name).rename((f / name).with_name("x_0000.NII.GZ")), "x_0000.NII.GZ"),
            ("without channel", lambda f: (f / name).rename((f / name).with_name("x.nii.gz")), "number of its channel"),
            (
                "second channel",
                lambda f: write_image(np.zeros((4, 4, 4), np.float32), f / name.replace("_0000", "_0001")),
                "channel",
            ),
        )
    ]
