"""Folders of images: the sub-folders are the classes, and the names of the files mean nothing.

Hidden files and what file managers leave behind are passed over; other files that are no images are counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from datasets import ClassLabel, Dataset, Features, Value
from PIL import Image

from .samples import DataError

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Names of folders that hold a split, and the names of the splits."""

LEFT_BEHIND = {"thumbs.db", "desktop.ini", "__macosx", "icon\r"}
"""Files and folders that file managers leave behind, in lower case."""


@dataclass(frozen=True)
class Tree:
    """The files of a folder, by their paths within it, sorted.

    Args:
        root: The folder.
        images: Files that are images by their ending.
        others: The other files.
        empty: Folders without images.
    """

    root: Path
    images: tuple[PurePosixPath, ...]
    others: tuple[PurePosixPath, ...]
    empty: tuple[PurePosixPath, ...]


@cache
def image_formats() -> tuple[str, ...]:
    """Return the formats that Pillow decodes by itself: EPS is a program, which it hands to Ghostscript."""
    Image.init()
    return tuple(kind for kind in Image.ID if kind != "EPS")


@cache
def image_endings() -> frozenset[str]:
    """Return the endings of the files that are read, in lower case."""
    formats = image_formats()
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in formats)


def list_files(root: Path) -> Tree:
    """Return the files of a folder and of all folders below it, those behind links too.

    Raises:
        DataError: If a folder cannot be read.
    """
    images: list[PurePosixPath] = []
    others: list[PurePosixPath] = []
    empty: list[PurePosixPath] = []
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, onerror=_unreadable, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else sorted(name for name in folders if _counts(name))
        if real in seen:
            continue
        seen.add(real)
        here = PurePosixPath(Path(folder).relative_to(root).as_posix())
        found = [here / name for name in names if _counts(name)]
        pictures = [path for path in found if path.suffix.lower() in image_endings()]
        images += pictures
        others += [path for path in found if path.suffix.lower() not in image_endings()]
        if not pictures and not folders and folder != str(root):
            empty.append(here)
    return Tree(root, *(tuple(sorted(paths, key=str)) for paths in (images, others, empty)))


def read_images(tree: Tree, labelled: bool = True) -> dict[str, Dataset]:
    """Return a table of the images of every split, with the columns ``image``, a path, and ``label``, the folder.

    Args:
        tree: The folder. Where its sub-folders are called ``train`` and ``test`` or the like, and have sub-folders
            themselves, they are splits.
        labelled: Whether the images need a class. Otherwise any tree is read, and the column ``label`` is the path of
            the folder.

    Raises:
        DataError: If images need a class, and one is not in a sub-folder, or below one; or if a name is no text.
    """
    splits = _splits(tree)
    if not labelled:
        parts = {"train": tree.images} if splits is None else splits
        return {split: _unlabelled(tree, paths, int(splits is not None)) for split, paths in parts.items()}
    if splits is None:
        return {"train": _labelled(tree, tree.images, 0)}
    names = sorted({path.parts[1] for path in tree.images if len(path.parts) > 2})
    return {split: _labelled(tree, paths, 1, names) for split, paths in splits.items()}


def describe_rest(tree: Tree, read: Iterable[PurePosixPath] = ()) -> tuple[str, ...]:
    """Return what is in the folder and was not read, for the line about the data.

    Args:
        tree: The folder.
        read: Files that were read beside the images.
    """
    said = []
    others = set(tree.others) - set(read)
    if others:
        endings = Counter(path.suffix.lower() or path.name for path in others)
        kinds = ", ".join(ending for ending, _ in sorted(endings.items(), key=lambda pair: (-pair[1], pair[0]))[:5])
        said.append(f"{len(others)} files that are no images ({kinds})")
    if tree.empty:
        said.append(f"{len(tree.empty)} folders without images ({_some([str(path) for path in tree.empty])})")
    return tuple(said)


def _unreadable(error: OSError) -> None:
    raise DataError(f"--data.source: the folder {error.filename} cannot be read: {error.strerror}") from error


def _has_surrogates(name: str) -> bool:
    """Return whether a name has bytes that are not UTF-8, for which Python has surrogates."""
    return any("\ud800" <= character <= "\udfff" for character in name)


def _counts(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in LEFT_BEHIND


def _splits(tree: Tree) -> dict[str, list[PurePosixPath]] | None:
    """Return the images of every split; None where the sub-folders are classes."""
    tops = {path.parts[0] for path in tree.images}
    known = {top: SPLITS.get(top.lower()) for top in tops}
    if None in known.values() or "train" not in known.values():
        return None
    if not all(len(path.parts) > 2 for path in tree.images):
        return None
    splits: dict[str, list[PurePosixPath]] = {split: [] for split in ("train", "validation", "test")}
    for path in tree.images:
        splits[str(known[path.parts[0]])].append(path)
    return {split: paths for split, paths in splits.items() if paths}


def _labelled(tree: Tree, paths: Sequence[PurePosixPath], depth: int, names: Sequence[str] | None = None) -> Dataset:
    """Return a table of images whose class is the folder at a depth.

    Raises:
        DataError: If an image is not directly in such a folder.
    """
    for path in paths:
        if len(path.parts) != depth + 2:
            raise _misplaced(tree, path, depth)
    labels = [path.parts[depth] for path in paths]
    features = Features({"image": Value("string"), "label": ClassLabel(names=list(names or sorted(set(labels))))})
    images = [str(_absolute(tree, path)) for path in paths]
    return Dataset.from_dict({"image": images, "label": labels}, features=features)


def _unlabelled(tree: Tree, paths: Sequence[PurePosixPath], depth: int) -> Dataset:
    """Return a table of images with the folders that they are in, below a depth."""
    folders = ["/".join(path.parts[depth:-1]) for path in paths]
    columns = {"image": [str(_absolute(tree, path)) for path in paths]}
    return Dataset.from_dict({**columns, **({"label": folders} if any(folders) else {})})


def _misplaced(tree: Tree, path: PurePosixPath, depth: int) -> DataError:
    where = tree.root.joinpath(*path.parts[:depth])
    if len(path.parts) == depth + 1:
        return DataError(
            f"--data.source: the image {tree.root / path} is in no sub-folder, and has no class; {where} needs one "
            "sub-folder for each class, with its images in it"
        )
    above, below = path.parts[depth], path.parts[depth + 1]
    return DataError(
        f"--data.source: the image {tree.root / path} is two folders deep: its class may be {above!r} or {below!r}; "
        f"{where} needs one sub-folder for each class, with its images in it: move them, or name the folder whose "
        "sub-folders are the classes"
    )


def _absolute(tree: Tree, path: PurePosixPath) -> Path:
    if _has_surrogates(str(path)):
        raise DataError(f"--data.source: the name of {str(tree.root / path)!a} is not UTF-8; rename it")
    return Path(os.path.abspath(tree.root / path))


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")
