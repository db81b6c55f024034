"""Tables from the hub, a folder laid out like the hub's, a folder of images, or a file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import datasets
from datasets import Dataset
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from filtune.suggestions import did_you_mean, nearest

from .cache import cache_errors, check_parquet, content_cache, quiet_reading
from .delimited import DELIMITERS, DelimitedFile, Quoting
from .hub_folder import HubFolder
from .image_folder import Tree, describe_rest, image_endings, list_files, read_images
from .image_metadata import describe_images, metadata_files, read_metadata
from .json_file import JsonFile
from .samples import DataError
from .shown import shown_list
from .textfile import COMPRESSED

JSON = (".json", ".jsonl", ".ndjson")
ENDINGS = (*DELIMITERS, ".json", ".jsonl", ".parquet", ".ndjson")
"""Endings of the files that are read, in lower case; text files may be compressed besides."""


@dataclass(frozen=True)
class TextOptions:
    """Options of reading text files.

    Args:
        encoding: Encoding of files without a byte order mark; UTF-8 by default.
        quoting: Quoting of delimited files; ``auto`` finds it out.
    """

    encoding: str | None = None
    quoting: Quoting = "auto"


PLAIN = TextOptions()


@dataclass(frozen=True)
class Source:
    """The tables of a source, and how they came about.

    Args:
        splits: A table for each split; a file has the one split ``train``.
        untyped: Columns that are text because the source says nothing of types, such as the cells of a CSV file.
        delimiter: What separates the cells of delimited files; empty elsewhere.
        file: The text file; none where the source is no file, or no text.
        notes: What was found besides and not read.
        files: Names of the files, where they are several.
        remarks: What was read in a way that is to be said.
        is_image_folder: Whether the classes are the names of folders.
    """

    splits: dict[str, Dataset]
    untyped: frozenset[str] = frozenset()
    delimiter: str = ""
    file: DelimitedFile | JsonFile | None = None
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    is_image_folder: bool = False

    @property
    def lines(self) -> Sequence[int] | None:
        """Number of the line that each row begins in, where the source is a text file with a row on each."""
        return self.file.lines or None if self.file is not None else None

    def is_untyped(self, column: str) -> bool:
        """Return whether a column is text because nothing says otherwise; blanks around its name do not count."""
        return column.strip() in {name.strip() for name in self.untyped}


def read_source(
    source: str,
    name: str | None = None,
    options: TextOptions = PLAIN,
    modality: Literal["text", "image"] = "text",
    labelled: bool = True,
) -> Source:
    """Return all splits of a source.

    Args:
        source: Hub id, folder or file.
        name: Configuration of a hub data set.
        options: How text files are read.
        modality: What is looked for: of a folder with texts and images, the ones or the others.
        labelled: Whether images in a folder need a class.

    Raises:
        DataError: If there is no such source or configuration, or it cannot be read.
    """
    if not source.strip():
        raise DataError("--data.source: it is empty; name a file, a folder or a hub id")
    path = Path(os.path.expanduser(source))
    if os.path.isfile(path):
        if name is not None:
            raise DataError(f"--data.name: {source} is a file and has no configuration {name!r}; leave the name out")
        return read_file(path, options)
    if os.path.isdir(path):
        return _read_folder(path, source, name, options, modality, labelled)
    if (
        source.startswith((".", "/", "~"))
        or source.endswith("/")
        or source.count("/") > 1
        or file_ending(path) in ENDINGS
    ):
        kind = "file" if file_ending(path) in ENDINGS else "folder"
        meant = did_you_mean(str(path.with_name(near)) for near in nearest(path.name, _names_beside(path)))
        raise DataError(f"--data.source: dataset {kind} not found: {source}{meant and f'; {meant}'}")
    _look_up(source)
    with quiet_reading(local=False), cache_errors(source):
        return Source(HubFolder(source, name).load())


def source_stem(source: str) -> str:
    """Return the short name of a source: of the file or folder without its endings, or of the hub id."""
    path = Path(source.rstrip("/") or "/")
    name = path.name if path.name not in ("", ".", "..") else Path(os.path.expanduser(path)).resolve().name
    path = Path(name)
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSED else path.stem or "data"


def file_ending(path: Path) -> str:
    """Return the ending of a file in lower case, without that of its compression."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def read_file(path: Path, options: TextOptions = PLAIN) -> Source:
    """Return the table of a file, as the split ``train``.

    Raises:
        DataError: If its type is unknown, or it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"--data.source: {path} is a folder, a pipe or a device, where a file is needed; name a file")
    ending = file_ending(path)
    if ending in DELIMITERS:
        delimited = DelimitedFile(path, options.encoding, options.quoting)
        table = Dataset(delimited.table())
        return Source({"train": table}, frozenset(table.column_names), delimited.dialect.delimiter, delimited)
    if ending in JSON:
        objects = JsonFile(path, options.encoding)
        mixed = sorted(objects.mixed)
        said = (f"values of several types in {shown_list(mixed)}, taken as they are written",) if mixed else ()
        return Source({"train": Dataset(objects.table)}, frozenset(mixed), file=objects, remarks=said)
    if path.suffix.lower() == ".parquet":
        with quiet_reading(local=True), cache_errors(str(path)):
            check_parquet(path)
            cache = str(content_cache([path]))
            table = datasets.load_dataset("parquet", data_files=str(path), split="train", cache_dir=cache)
        return Source({"train": table})
    if path.suffix.lower() in image_endings():
        raise DataError(
            f"--data.source: {path} is an image, and images are read by folders; name the one that it is in"
        )
    raise DataError(
        f"--data.source: {path} is of an unknown type; a file must end in one of {', '.join(ENDINGS)}, text files also "
        f"with {', '.join(COMPRESSED)} behind it"
    )


def _read_folder(
    path: Path, source: str, name: str | None, options: TextOptions, modality: str, labelled: bool
) -> Source:
    """Return a folder of images, or one laid out like the hub's."""
    marks = {file for file in ("state.json", "dataset_info.json", "dataset_dict.json") if (path / file).is_file()}
    if name is None and ("dataset_dict.json" in marks or len(marks) > 1):
        return _load_saved(path, source)
    tree = list_files(path)
    tables = [file for file in tree.others if file_ending(Path(file)) in (*ENDINGS, ".arrow")]
    is_stored = any(file.suffix.lower() in (".parquet", ".arrow") for file in tables)
    may_be_images = modality == "image" and not _declares(path)
    # as many images as tables: the tables may be of anything, such as records of runs
    many = bool(tree.images) and (bool(metadata_files(tree)) or len(tree.images) >= len(tables))
    if many and not is_stored and may_be_images and name is None:
        return _read_image_folder(tree, options, labelled)
    if modality == "image" and not tree.images and not tables:
        rest = "; ".join(describe_rest(tree)) or "it is empty"
        raise DataError(
            f"--data.source: {source} has no images ({rest}); a file is an image by its ending, such as .png, .jpg or "
            ".tif: rename or convert others"
        )
    if tree.outputs and not _declares(path):
        raise DataError(
            f"--data.source: in {source} are files of runs or models ({shown_list(tree.outputs, 3)}), which are no "
            "data; name the file or the folder of the data alone, or move them out of it (--run.root)"
        )
    with quiet_reading(local=True), cache_errors(source):
        folder = HubFolder(os.path.abspath(path), name)
        texts = folder.text_files(ENDINGS, file_ending)
        notes = folder.files_left(path / file for file in tables)
        if texts is None and not (folder.kind == "imagefolder" and may_be_images):
            return Source(folder.load(), notes=notes, remarks=folder.joined_files())
    if texts is None:
        return _read_image_folder(tree, options, labelled)
    read = _read_texts(texts, folder.features, options, notes)
    return replace(read, remarks=read.remarks + folder.joined_files())


def _load_saved(path: Path, source: str) -> Source:
    """Return a folder that ``save_to_disk`` of the ``datasets`` library wrote."""
    with quiet_reading(local=True), cache_errors(source):
        saved = datasets.load_from_disk(str(path))
        splits = saved if isinstance(saved, dict) else {"train": saved}
        return Source({str(split): table.with_format(None) for split, table in splits.items()})


def _read_image_folder(tree: Tree, options: TextOptions, labelled: bool) -> Source:
    """Return the images of a folder, with the table beside them where there is one."""
    metadata = metadata_files(tree)
    notes = describe_rest(tree, metadata.values())
    if not metadata:
        return Source(read_images(tree, labelled), notes=notes, is_image_folder=True)
    found = {split: read_file(tree.root / file, options) for split, file in metadata.items()}
    tables = {
        split: read_metadata(each.splits["train"], tree.root / metadata[split], tree.root, each.lines)
        for split, each in found.items()
    }
    remarks, left = describe_images(tables.values(), tree)
    first = next(iter(found.values()))
    return Source(tables, _untyped(found.values()), first.delimiter, notes=notes + left, remarks=remarks)


def _read_texts(
    texts: dict[str, list[Path]], features: datasets.Features | None, options: TextOptions, notes: tuple[str, ...]
) -> Source:
    """Return the text files of every split, with the types that the folder declares, if it does."""
    files = {split: [read_file(file, options) for file in found] for split, found in texts.items()}
    splits = {split: _joined(found, texts[split]) for split, found in files.items()}
    if features is not None:
        with quiet_reading(local=True), cache_errors(str(next(iter(texts.values()))[0].parent)):
            return Source({split: table.cast(features) for split, table in splits.items()}, notes=notes)
    flat = [each for found in files.values() for each in found]
    names = tuple(file.name for found in texts.values() for file in found)
    remarks = tuple(dict.fromkeys(said for each in flat for said in each.remarks))
    return Source(splits, _untyped(flat), flat[0].delimiter, notes=notes, files=names, remarks=remarks)


def _untyped(sources: Iterable[Source]) -> frozenset[str]:
    return frozenset().union(*(each.untyped for each in sources))


def _joined(sources: Sequence[Source], files: Sequence[Path]) -> Dataset:
    """Return the tables of several files as one.

    Raises:
        DataError: If they have other columns.
    """
    tables = [each.splits["train"] for each in sources]
    for table, file in zip(tables, files, strict=True):
        if table.features != tables[0].features:
            raise DataError(
                f"--data.source: {file} has other columns than {files[0]} ({', '.join(table.column_names)}; "
                f"{', '.join(tables[0].column_names)}); name one of the files, or make them alike"
            )
    return datasets.concatenate_datasets(tables) if len(tables) > 1 else tables[0]


def _declares(path: Path) -> bool:
    """Return whether the folder says itself what its files are, as on the hub."""
    readme = path / "README.md"
    if not readme.is_file():
        return False
    text = readme.read_text(encoding="utf-8", errors="replace")
    head = text.split("\n---", 1)[0] if text.startswith("---") else ""
    return any(line.startswith(("configs:", "dataset_info:")) for line in head.splitlines())


def _names_beside(path: Path) -> list[str]:
    """Return the names in a path's folder."""
    return [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []


def _look_up(source: str) -> None:
    """Check that the hub can be reached, which ``load_dataset`` would try for half a minute."""
    cached = Path(datasets.config.HF_DATASETS_CACHE) / source.replace("/", "___")
    try:
        HfApi().dataset_info(source, timeout=10)
    except RepositoryNotFoundError as error:
        raise DataError(f"--data.source: the hub has no data set {source!r}, or it is not public") from error
    except Exception as error:  # of the HTTP library, whichever it is
        if not os.path.isdir(cached):
            raise DataError(
                f"--data.source: the hub could not be reached for {source!r}; name a local folder laid out like the "
                "hub's instead, as in --data.source path/to/folder"
            ) from error
