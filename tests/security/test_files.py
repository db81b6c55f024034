"""No file of a stranger is executed, whatever it is called: pickles, YAML tags, symbolic links, paths with dots."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filtune.datamodules import DataError, ImageDataModule, TextDataModule
from filtune.experiments.archive import Archive
from filtune.experiments.composition import find_config, metadata, read_part
from filtune.experiments.records import Store, unpack
from filtune.experiments.run_folder import read_run
from filtune.experiments.tables import load_table
from filtune.exports.restore import restore
from filtune.lightning_modules.checkpoints import AtomicCheckpointIO, CheckpointError
from filtune.lightning_modules.runs import RunName, new_folder

from filtune.cli import main
from tests.security.conftest import Refused, Stranger


class Act:
    """Calls a function when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.mark), "a")


@pytest.fixture
def bomb(mark: Path) -> Any:
    """An object that leaves a mark when it is unpickled; the test fails if it is."""
    yield Act(mark)
    assert not mark.exists()


def pickled(bomb: Act) -> dict[str, bytes]:
    """The pickle itself, and in the archive that torch writes."""
    file = io.BytesIO()
    torch.save({"state_dict": bomb, "filtune": {}}, file)
    return {"plain": pickle.dumps(bomb), "torch": file.getvalue()}


@pytest.mark.parametrize("form", ["plain", "torch"])
def test_a_pickle_for_a_checkpoint(form: str, stranger: Stranger, bomb: Act, refused: Refused) -> None:
    """All commands read checkpoints in one place."""
    stranger.checkpoint.write_bytes(pickled(bomb)[form])
    with pytest.raises(CheckpointError, match=re.escape(str(stranger.checkpoint))):
        AtomicCheckpointIO().load_checkpoint(stranger.checkpoint)
    assert str(stranger.checkpoint) in refused(*stranger.commands()["predict" if form == "plain" else "validate"])


@pytest.mark.parametrize("place", ["filtune", "optimizer_states", "state_dict", "callbacks", "loops", "new"])
def test_a_pickle_within_a_checkpoint(place: str, stranger: Stranger, bomb: Act) -> None:
    stranger.change_checkpoint(lambda content: content.update({place: {"x": bomb}}))
    with zipfile.ZipFile(stranger.checkpoint) as archive:
        assert b"open" in archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    with pytest.raises(CheckpointError, match=re.escape(str(stranger.checkpoint))):
        AtomicCheckpointIO().load_checkpoint(stranger.checkpoint)


@pytest.mark.parametrize("form", ["plain", "torch"])
@pytest.mark.parametrize("name", ["config.yaml", "summary.json"])
def test_a_pickle_for_another_file_of_a_run(name: str, form: str, stranger: Stranger, bomb: Act) -> None:
    """A model is restored without a summary."""
    (stranger.folder / name).write_bytes(pickled(bomb)[form])
    with pytest.raises(ValueError, match=name):
        read_run(stranger.folder)
    if name == "config.yaml":
        with pytest.raises(ValueError, match=name):
            restore(stranger.checkpoint)


@pytest.mark.parametrize("form", ["plain", "torch"])
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
def test_a_pickle_for_a_table(ending: str, form: str, tmp_path: Path, bomb: Act) -> None:
    table = tmp_path / f"x{ending}"
    table.write_bytes(pickled(bomb)[form])
    with pytest.raises(DataError, match=f"x{ending}"):
        TextDataModule(str(table), ["text"]).setup()


@pytest.mark.parametrize("form", ["plain", "torch"])
def test_a_pickle_for_an_image(form: str, tmp_path: Path, bomb: Act) -> None:
    (tmp_path / "x.png").write_bytes(pickled(bomb)[form])
    (tmp_path / "x.csv").write_text("image,label\n" + "x.png,a\nx.png,b\n" * 5)
    with pytest.raises(DataError, match="image"):
        ImageDataModule(str(tmp_path / "x.csv")).setup()


@pytest.mark.parametrize("form", ["plain", "torch"])
def test_a_pickle_for_a_record_or_a_study(form: str, tmp_path: Path, bomb: Act) -> None:
    for file in ("records/k.json", "manifests/m.json", "study.jsonl.xz"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(pickled(bomb)[form])
    with pytest.raises(ValueError, match="not a packed study"):
        unpack(tmp_path / "study.jsonl.xz")
    assert len(Archive([tmp_path]).left_out) == 2
    (tmp_path / "study.jsonl.xz").unlink()
    assert Store(tmp_path).read("k") is None


TAGS = [
    "!!python/object/apply:os.system [touch {mark}]",
    "!!python/object/new:subprocess.Popen [[touch, {mark}]]",
    "!!python/name:os.system",
    "!!python/module:evil_module",
    "!evil x",
]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("place", ["{tag}", "a: {tag}", "data: {{init_args: {{seed: {tag}}}}}"])
def test_a_tag_of_yaml(place: str, tag: str, stranger: Stranger, evil: str, mark: Path, tmp_path: Path) -> None:
    text = place.format(tag=tag.format(mark=mark)) + "\n"
    own = tmp_path / "own.yaml"
    for file in (stranger.config_path, own):
        file.write_text(text)
    for read in (
        lambda: read_part(own), lambda: load_table(str(own)), lambda: read_run(stranger.folder),
        lambda: restore(stranger.checkpoint),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"\.yaml"):
            read()


@pytest.mark.parametrize(("option", "tag"), [("--optimizer", TAGS[0]), ("--data.seed", TAGS[1])])
def test_a_tag_of_yaml_on_the_line(option: str, tag: str, evil: str, mark: Path, refused: Refused) -> None:
    refused("fit", "--config=quickstart", option, f"{{a: {tag.format(mark=mark)}}}")


@pytest.mark.parametrize("name", ["..", "../../x", "/etc/x", "a/b", "", ".", "x" * 300, "a\nb", "\x1b[0m"])
def test_a_name_leads_to_no_other_folder(name: str, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for parts in ((name, "net"), ("task", name)):
        folder = new_folder(root, RunName(*parts, optimizer="SGD", seed=0))
        assert folder.resolve().parents[2] == root.resolve()
        assert folder.parents[1].name.isprintable()
    assert metadata("task", name) == {}
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_an_export_replaces_a_symbolic_link_and_nothing_behind_it(stranger: Stranger, tmp_path: Path) -> None:
    behind, link = tmp_path / "behind", tmp_path / "link"
    export = ["export", f"--ckpt_path={stranger.checkpoint}", "--overwrite"]
    main([*export, f"--to={behind}"])
    before = sorted(path.stat().st_mtime_ns for path in behind.iterdir())
    link.symlink_to(behind)
    main([*export, f"--to={link}"])
    assert sorted(path.stat().st_mtime_ns for path in behind.iterdir()) == before
    assert link.is_dir()
    assert not link.is_symlink()


def test_a_link_for_an_output_is_replaced_and_nothing_behind_it(stranger: Stranger, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    (tmp_path / "new.csv").write_text("image\nx.png\n")
    precious = tmp_path / "precious.csv"
    precious.write_text("mine")
    (tmp_path / "out.csv").symlink_to(precious)
    main(["predict", f"--ckpt_path={stranger.checkpoint}", f"--input={tmp_path / 'new.csv'}", "--no_uncertainty",
          f"--output={tmp_path / 'out.csv'}"])  # fmt: skip
    assert precious.read_text() == "mine"
    assert "prediction" in (tmp_path / "out.csv").read_text()


def test_a_link_for_a_checkpoint_or_a_configuration_is_read_as_what_it_is(
    stranger: Stranger, tmp_path: Path, refused: Refused
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret: [of mine\n")
    for file, command in ((stranger.config_path, "validate"), (stranger.checkpoint, "validate")):
        file.unlink()
        file.symlink_to(secret)
        assert "secret: [" not in refused(*stranger.commands()[command])


def test_an_image_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands EPS to Ghostscript, whatever the file is called."""
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("Ghostscript is started"))
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "x.png").write_text(text)
    (tmp_path / "x.csv").write_text("image,label\n" + "x.png,a\nx.png,b\n" * 5)
    with pytest.raises(DataError, match="undecodable image"):
        ImageDataModule(str(tmp_path / "x.csv")).setup()


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "x.csv").write_text("image,label\n" + "pipe.png,a\npipe.png,b\n" * 5)
    with pytest.raises(DataError):
        ImageDataModule(str(tmp_path / "x.csv")).setup()


@pytest.mark.parametrize("name", ["../outside", "%2e%2e/x", "task/../../x"])
def test_a_configuration_is_named_by_a_path_as_any_file(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no such file"):
        find_config(name)
