"""Folders of images: the sub-folders are the classes, and the names of the files mean nothing.

Hidden files and files of file managers are skipped; other files that are no images are counted.
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
from .shown import shown_list

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
        outputs: Folders and files of runs and models, whose content is not listed.
        repeats: Folders that are links to a folder that is listed, or to one above all.
        broken: Links to what is not there.
    """

    root: Path
    images: tuple[PurePosixPath, ...]
    others: tuple[PurePosixPath, ...]
    empty: tuple[PurePosixPath, ...] = ()
    outputs: tuple[PurePosixPath, ...] = ()
    repeats: tuple[PurePosixPath, ...] = ()
    broken: tuple[PurePosixPath, ...] = ()


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
    kinds = ("images", "others", "empty", "outputs", "repeats", "broken")
    found: dict[str, list[PurePosixPath]] = {kind: [] for kind in kinds}
    top = os.path.realpath(root)
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, onerror=_unreadable, followlinks=True):
        here, real = PurePosixPath(Path(folder).relative_to(root).as_posix()), os.path.realpath(folder)
        if real in seen or (real != top and Path(top).is_relative_to(real)):
            found["repeats"].append(here)
            folders.clear()
            continue
        if real != top and is_output(names, folders):
            found["outputs"].append(here)
            folders.clear()
            continue
        seen.add(real)
        if {"records", "manifests"} <= {*folders}:  # of a study
            found["outputs"] += [here / folders.pop(folders.index(name)) for name in ("records", "manifests")]
        # a folder before the links to it
        links = {name for name in folders if os.path.islink(os.path.join(folder, name))}
        folders[:] = sorted(filter(_counts, folders), key=lambda name: (name in links, name))
        files = [here / name for name in names if _counts(name)]
        for path in files:
            found[_kind(root, path)].append(path)
        if not folders and folder != str(root) and not any(_is_image(path) for path in files):
            found["empty"].append(here)
    return Tree(root, **{kind: tuple(sorted(paths, key=str)) for kind, paths in found.items()})


def is_output(files: list[str], folders: list[str]) -> bool:
    """Return whether a folder with these files and folders in it is that of a run, or of a model."""
    is_run = "config.yaml" in files and not {"summary.json", "hparams.yaml", "checkpoints"}.isdisjoint(files + folders)
    return is_run or any(name.endswith((".safetensors", ".ckpt")) for name in files)


def _is_image(path: PurePosixPath) -> bool:
    return path.suffix.lower() in image_endings()


def _kind(root: Path, path: PurePosixPath) -> str:
    """Return the kind of a file: an image, whether it is there or not, a broken link, an output, or another."""
    if _is_image(path):
        return "images"
    if not (root / path).exists():
        return "broken"
    return "outputs" if ".predictions" in [suffix.lower() for suffix in path.suffixes[:-1]] else "others"


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
    splits = _splits(tree, labelled)
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
    for count, what in (
        (tree.empty, "folders without images"),
        (tree.outputs, "files and folders of runs or models"),
        (tree.repeats, "folders that are links to what is read already"),
        (tree.broken, "broken links"),
    ):
        if count:
            said.append(f"{len(count)} {what} ({shown_list(count, 5)})")
    return tuple(said)


def _unreadable(error: OSError) -> None:
    raise DataError(f"--data.source: the folder {error.filename} cannot be read: {error.strerror}") from error


def _has_surrogates(name: str) -> bool:
    """Return whether a name has bytes that are not UTF-8, for which Python has surrogates."""
    return any("\ud800" <= character <= "\udfff" for character in name)


def _counts(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in LEFT_BEHIND


def _splits(tree: Tree, labelled: bool) -> dict[str, list[PurePosixPath]] | None:
    """Return the images of every split; None where the sub-folders are classes.

    Raises:
        DataError: If images need a class, and one of a split has none.
    """
    tops = {path.parts[0] for path in tree.images}
    known = {top: SPLITS.get(top.lower()) for top in tops}
    if None in known.values() or "train" not in known.values():
        return None
    shallow = [path for path in tree.images if len(path.parts) <= 2]
    if len(shallow) == len(tree.images) or (shallow and not labelled):
        return None
    if shallow:
        raise _misplaced(tree, shallow[0], len(shallow[0].parts) - 1)
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
