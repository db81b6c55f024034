"""Folders of images: sub-folders are classes, names of files mean nothing, and files that are not read are reported."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filtune.datamodules import DataError, ImageDataModule, TextDataModule
from filtune.datamodules.image_folder import list_files, read_images
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

NAMES = st.sampled_from(
    ["a", "train_0", "test", "test_1", "validation-2", "val", "dev.x", "eval", "IMG_0", "mask", ".hidden", "README"]
)


@pytest.fixture
def draw_images(tmp_path: Path) -> Callable[..., Path]:
    """Write small images by their paths, and return their folder."""

    def draw_images(*paths: str, folder: str = "photos") -> Path:
        root = tmp_path / folder
        for i, path in enumerate(paths):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (i % 256, 0, 0)).save(root / path, format="PNG")
        return root

    return draw_images


def module_of(folder: Path, **options: Any) -> ImageDataModule:
    module = ImageDataModule(str(folder), **{"val_fraction": 0, "shuffle": False, **options})
    module.setup()
    return module


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(NAMES, min_size=4, max_size=4, unique=True))
def test_names_of_files_mean_nothing(draw_images: Callable[..., Path], names: list[str]) -> None:
    folder = draw_images(*(f"{kind}/{name}.png" for kind in ("cat", "dog") for name in names), folder="-".join(names))
    module = module_of(folder)
    visible = [name for name in names if not name.startswith(".")]
    assert module.report().rows == 2 * len(visible)
    assert module.task.classes == ("cat", "dog")
    assert [label.item() for label in module.part.samples.labels] == [0] * len(visible) + [1] * len(visible)


def test_split_folders(draw_images: Callable[..., Path]) -> None:
    """As on the hub; classes that only one split has are classes of all."""
    folder = draw_images("Train/cat/0.png", "Train/dog/1.png", "Train/owl/2.png", "val/cat/3.png", "test/owl/4.png")
    module = module_of(folder, val_split="validation")
    assert module.task.classes == ("cat", "dog", "owl")
    assert module.sizes == {"train_rows": 3, "val_rows": 1}
    assert set(module.read.splits) == {"train", "validation", "test"}
    assert "split 'validation'" in str(module.report())


def test_classes_may_be_called_like_splits(draw_images: Callable[..., Path]) -> None:
    assert module_of(draw_images("test/0.png", "train/1.png")).task.classes == ("test", "train")
    assert module_of(draw_images("test/0.png", "plane/1.png", folder="b")).task.classes == ("plane", "test")


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["cat/indoor/0.png", "dog/outdoor/1.png"], "0.png is two folders deep: its class may be 'cat' or 'indoor'"),
        (["cat/0.png", "dog/1.png", "dog/outdoor/2.png"], "its class may be 'dog' or 'outdoor'"),
        (["cat/0.png", "dog/1.png", "2.png"], "2.png is in no sub-folder, and has no class"),
        (["0.png", "1.png"], "0.png is in no sub-folder"),
        (["train/cat/in/0.png", "train/dog/1.png", "test/cat/2.png"], "its class may be 'cat' or 'in'"),
        (["cat/0.png"], "two different classes at least"),
        (["train/cat/0.png", "train/dog/1.png", "val/2.png"], "val/2.png is in no sub-folder, and has no class"),
    ],
)
def test_other_trees_are_refused(draw_images: Callable[..., Path], paths: list[str], message: str) -> None:
    with pytest.raises(DataError) as error:
        module_of(draw_images(*paths))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_not_read_is_counted(draw_images: Callable[..., Path]) -> None:
    folder = draw_images(
        "cat/0.PNG", "cat/1.JpEg", "dog/2.webp", "dog/.DS_Store", "dog/Thumbs.db", "__MACOSX/dog/2.png"
    )
    (folder / "dog" / "notes.txt").write_text("...")
    (folder / "dog" / "3.heic").write_text("...")
    (folder / "owl").mkdir()
    module = module_of(folder)
    assert (module.report().rows, module.task.classes) == (3, ("cat", "dog"))
    said = str(module.report())
    assert "not read: 2 files that are no images (.heic, .txt); not read: 1 folders without images (owl)" in said


def test_folders_behind_links_are_read_once(draw_images: Callable[..., Path]) -> None:
    folder = draw_images("cat/0.png", "cat/1.png", "dog/2.png")
    elsewhere = draw_images("3.png", folder="elsewhere")
    (folder / "owl").symlink_to(elsewhere)
    (folder / "cat" / "again").symlink_to(folder)
    module = module_of(folder)
    assert (module.report().rows, module.task.classes) == (4, ("cat", "dog", "owl"))


def test_a_name_that_is_no_text(draw_images: Callable[..., Path]) -> None:
    folder = draw_images("cat/0.png", "dog/1.png")
    (folder / "cat" / "0.png").rename(os.fsdecode(os.fsencode(folder) + b"/cat/\xff.png"))
    with pytest.raises(DataError, match=r"the name of '.*/cat/.udcff.png' is not UTF-8; rename it"):
        module_of(folder)


def test_any_tree_is_read_without_classes(draw_images: Callable[..., Path]) -> None:
    folder = draw_images("0.png", "train_1.png", "cat/2.png", "cat/deep/test_3.png")
    table = read_images(list_files(folder), labelled=False)["train"]
    assert [Path(path).name for path in table["image"]] == ["0.png", "2.png", "test_3.png", "train_1.png"]
    assert list(table["label"]) == ["", "cat", "cat/deep", ""]
    splits = read_images(list_files(draw_images("train/cat/0.png", "test/cat/1.png", folder="b")), labelled=False)
    assert {split: list(table["label"]) for split, table in splits.items()} == {"train": ["cat"], "test": ["cat"]}


def test_a_table_of_metadata(draw_images: Callable[..., Path]) -> None:
    folder = draw_images("a/train_0.png", "a/test_1.png", "b/2.png", "b/3.png")
    rows = "".join(f"{path},{i / 2}\n" for i, path in enumerate(["a/train_0.png", "a/test_1.png", "b/2.png"]))
    (folder / "metadata.csv").write_text(f"file_name,score\n{rows}")
    module = module_of(folder, label_column="score")
    assert (module.report().rows, module.task.kind, module.report().range) == (3, "regression", (0.0, 1.0))
    (folder / "metadata.csv").write_text("file_name,score\ngone.png,1.5\n")
    with pytest.raises(DataError, match=r"image not found: .*photos/gone.png"):
        module_of(folder, label_column="score")


def test_a_path_that_does_not_exist_is_named(draw_images: Callable[..., Path]) -> None:
    folder = draw_images("0.png")
    (folder / "list.csv").write_text("image,label\n0.png,a\nno/where.png,b\n")
    with pytest.raises(DataError) as error:
        module_of(folder / "list.csv")
    assert f"row 1 (from 0), column 'image': image not found: {folder / 'no/where.png'}" in str(error.value)
    assert "line 3 of the file" in str(error.value)


def test_texts_beside_images(draw_images: Callable[..., Path]) -> None:
    folder = draw_images("0.png", "a/b/1.png")
    (folder / "films.csv").write_text("text,label\nx,a\ny,b\n")
    with pytest.raises(DataError, match="--data.text_columns: .*photos has no column 'text'; choose from image"):
        TextDataModule(str(folder), ["text"]).setup()
    for name in ("more.csv", "most.csv"):
        (folder / name).write_text("text,label\nx,a\ny,b\n")
    module = TextDataModule(str(folder), ["text"], val_fraction=0)
    module.setup()
    assert module.report().rows == 6


def test_a_program_is_no_image(draw_images: Callable[..., Path]) -> None:
    """An EPS file would be run by Ghostscript, whatever its name."""
    folder = draw_images("cat/0.png", "dog/1.png")
    program = folder / "dog" / "1.eps"
    Image.new("L", (4, 4)).save(program)
    assert "1 files that are no images (.eps)" in str(module_of(folder).report())
    program.rename(folder / "dog" / "2.png")
    with pytest.raises(DataError, match=r"undecodable image: .*/dog/2.png"):
        module_of(folder)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK", "I;16", "F"])
def test_kinds_of_pixels(tmp_path: Path, mode: str) -> None:
    ending = {"CMYK": "JPG", "F": "TIF"}.get(mode, "png")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new(mode, (5, 4)).save(tmp_path / name / f"0.{ending}")
    module = module_of(tmp_path)
    channels = 1 if mode in ("1", "L", "LA", "I;16", "F") else 3
    assert module.task.image_shape == (channels, 4, 5)


def test_links_that_are_read_already_are_counted(draw_images: Callable[..., Path]) -> None:
    """A link to a class is no second class; one to a folder above would have no end."""
    folder = draw_images("cat/0.png", "dog/1.png")
    (folder / "a_cat").symlink_to(folder / "cat")
    (folder / "dog" / "up").symlink_to(folder.parent)
    (folder / "owl").symlink_to(folder / "nowhere")
    module = module_of(folder)
    assert (module.report().rows, module.task.classes) == (2, ("cat", "dog"))
    said = str(module.report())
    assert "not read: 2 folders that are links to what is read already (a_cat, dog/up)" in said
    assert "not read: 1 broken links (owl)" in said


def test_class_folders_that_differ_in_case(draw_images: Callable[..., Path]) -> None:
    folder = draw_images("Cat/0.png", "cat/1.png", "dog/2.png")
    with pytest.raises(DataError, match="the classes 'Cat' and 'cat', which differ in case, blanks or encoding alone"):
        module_of(folder)
    assert module_of(folder, classes=["Cat", "cat", "dog"]).task.classes == ("Cat", "cat", "dog")


def test_what_a_run_wrote_is_no_image(draw_images: Callable[..., Path]) -> None:
    """Plots of a run whose folder is within that of the images are neither classes nor two folders deep."""
    folder = draw_images("cat/0.png", "dog/1.png", "runs/digits/seed0/plot.png")
    for name in ("config.yaml", "summary.json"):
        (folder / "runs/digits/seed0" / name).write_text("{}")
    module = module_of(folder)
    assert (module.report().rows, module.task.classes) == (2, ("cat", "dog"))
    assert "not read: 1 files and folders of runs or models (runs/digits/seed0)" in str(module.report())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../photos2/0.png", "line 3: file_name '../photos2/0.png' leads out of the folder"),
        ("/etc/hostname", "line 3: file_name '/etc/hostname' leads out of the folder"),
        ("", "missing image"),
        ("b", "image is a folder: "),
    ],
)
def test_a_table_of_metadata_stays_in_its_folder(draw_images: Callable[..., Path], name: str, said: str) -> None:
    folder = draw_images("a/0.png", "b/1.png")
    (folder / "metadata.csv").write_text(f"file_name,label\na/0.png,x\n{name},y\n")
    with pytest.raises(DataError) as error:
        module_of(folder)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_images_that_metadata_names_twice_or_never(draw_images: Callable[..., Path]) -> None:
    folder = draw_images("a/0.png", "b/1.png", "b/2.png")
    table = f"file_name,label\na/0.png,x\n{folder / 'b/1.png'},y\nb/../a/0.png,x\n"
    (folder / "metadata.csv").write_text(table)
    said = str(module_of(folder).report())
    assert "; 1 images are in several rows (a/0.png)" in said
    assert "; not read: 1 images that no row names (b/2.png)" in said
    (folder / "metadata.jsonl").write_text('{"file_name": "a/0.png", "label": "x"}\n')
    with pytest.raises(DataError, match=r"metadata.csv and metadata.jsonl both describe the images"):
        module_of(folder)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_several_frames_are_counted(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("L", (4, 4), grey) for grey in (0, 100, 200)]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        frames[0].save(tmp_path / name / f"0.{kind.lower()}", kind, save_all=True, append_images=frames[1:])
        frames[1].save(tmp_path / name / f"1.{kind.lower()}", kind)
    module = module_of(tmp_path)
    assert "2 images have several frames, of which the first is taken" in str(module.report())
    assert int(module.part.samples.read(0).max()) <= 1


@pytest.mark.parametrize(("endings", "said"), [((".svg", ".heic"), "2 files that are no images"), ((), "it is empty")])
def test_a_folder_without_images(tmp_path: Path, endings: tuple[str, ...], said: str) -> None:
    for ending in endings:
        (tmp_path / f"0{ending}").write_text("x")
    with pytest.raises(DataError, match=f"has no images .{said}.*rename or convert others"):
        module_of(tmp_path)


def test_integers_beyond_sixteen_bits(tmp_path: Path) -> None:
    """16 bits are 0..1; more would be brightness beyond any image's."""
    for name, value in (("a", 65535), ("b", 400_000)):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((4, 4), value, np.int32)).save(tmp_path / name / "0.tif")
    with pytest.raises(DataError, match=r"b/0.tif \(pixels beyond 16 bits\)"):
        module_of(tmp_path)
