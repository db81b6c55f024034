"""A run is not resumed over damaged files, nor through links: what is named is deleted, and then the run goes on."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filtune.lightning_modules.event_files import EVENTS
from filtune.lightning_modules.integrity import DamagedFile, read_json, read_yaml
from filtune.lightning_modules.run_files import check_files
from hypothesis import given, settings
from hypothesis import strategies as st

from filtune.cli import main
from tests.cli.harness import only_run
from tests.cli.run_folders.conftest import FILES, FIT, RESUME, Refused


def one(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


@settings(max_examples=60, deadline=None)
@given(
    pattern=st.sampled_from(FILES),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    how=st.sampled_from(["flip", "cut", "drop", "line"]),
)
def test_damage_anywhere_is_refused_or_changes_nothing(
    finished: Path, pattern: str, place: float, bit: int, how: str
) -> None:
    """Nothing that is read may differ: the checksums see the content, and what they do not see says nothing."""
    path = one(finished, pattern)
    whole = path.read_bytes()
    at = int(place * len(whole))
    damaged = bytearray(whole)
    if how == "flip":
        damaged[at] ^= 1 << bit
    elif how == "line":
        lines = whole.splitlines(keepends=True)
        del lines[int(place * len(lines))]
        damaged = bytearray(b"".join(lines))
    else:
        del damaged[at : None if how == "cut" else at + 1 + bit]
    path.write_bytes(damaged)
    message = ""
    try:
        check_files(finished)
        # only white space, the end of the last line, or the comment that says that there is a checksum
        assert reads_the_same(path, whole), (pattern, how, at)
    except DamagedFile as error:
        message = str(error)
    finally:
        path.write_bytes(whole)
    assert not message or (str(path) in message and "To resume, " in message and "\n" not in message)


def reads_the_same(path: Path, whole: bytes) -> bool:
    if path.suffix == ".ckpt" or path.match(EVENTS):
        return False
    read = read_yaml if path.suffix == ".yaml" else read_json
    found = read(path)
    path.write_bytes(whole)
    return repr(found) == repr(read(path))


@pytest.mark.parametrize("pattern", FILES)
def test_the_command_refuses_it_and_overwrites_nothing(run: Path, pattern: str, refused: Refused) -> None:
    path = one(run, pattern)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    before = content(run)
    line = refused(*RESUME)
    assert str(path) in line
    assert "To resume, " in line
    assert content(run) == before


MARKS: dict[str, tuple[str, Callable[[str], str]]] = {
    "marker of the YAML": ("config.yaml", lambda text: text.replace("sha256", "sha257", 1)),
    "first line of the YAML": ("config.yaml", lambda text: text.partition("\n")[2]),
    "name of the field": ("summary.json", lambda text: text.replace('"checksum"', '"checksun"')),
    "the field": ("summary.json", lambda text: re.sub(r',\s*"checksum": "\w+"', "", text)),
    "empty": ("summary.json", lambda text: ""),
    "empty configuration": ("config.yaml", lambda text: ""),
}


@pytest.mark.parametrize("mark", MARKS)
def test_damage_of_the_checksum_itself_does_not_end_the_check(run: Path, mark: str, refused: Refused) -> None:
    name, change = MARKS[mark]
    text = (run / name).read_text()
    # as if figures or settings had been changed as well
    changed = change(text).replace("max_samples: 12", "max_samples: 11").replace('"samples": 12', '"samples": 13')
    assert changed != text
    (run / name).write_text(changed)
    assert str(run / name) in refused(*RESUME)


def test_it_goes_on_when_what_is_named_is_deleted(run: Path, refused: Refused) -> None:
    events = one(run, EVENTS)
    for path in (run / "config.yaml", run / "summary.json", events):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for _ in range(3):
        line = refused(*RESUME)
        (named,) = [path for path in (run / "config.yaml", run / "summary.json", events) if f"{path}: " in line]
        named.unlink()
    with pytest.warns(UserWarning, match=re.escape(f"{events}: is missing, and so are the curves that were in it")):
        main(RESUME)
    check_files(run)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["samples"] == 24
    assert only_run(Path("runs")) == run


def test_an_event_file_that_was_cut_between_two_records_is_noticed_in_an_unfinished_run(
    run: Path, refused: Refused
) -> None:
    """Without a summary, what was kept with the checkpoint says how long it was."""
    (run / "summary.json").unlink()
    events = one(run, EVENTS)
    events.write_bytes(b"")
    line = refused(*RESUME)
    assert f"{events}: cut short" in line
    assert line.partition("To resume, ")[2] == "move it away: the run goes on without the curves that are in it"
    assert not events.stat().st_size


def test_a_configuration_that_cannot_be_read_is_looked_up_in_the_checkpoint(run: Path, refused: Refused) -> None:
    """A damaged one of another run does not stand in the way."""
    (run / "config.yaml").write_text("")
    main([*FIT, "--optimizer.lr=0.001"])  # version_1
    main([*RESUME, "--optimizer.lr=0.001"])
    assert f"{run / 'config.yaml'}: " in refused(*RESUME)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside"
    path.mkdir()
    (path / "mine.txt").write_text("mine")
    return path


def replace_by_link(path: Path, target: Path) -> None:
    if path.is_dir():
        shutil.copytree(path, target, dirs_exist_ok=True)
        shutil.rmtree(path)
    elif path.exists():
        shutil.copy(path, target / path.name)
        path.unlink()
        target = target / path.name
    else:
        target = target / "mine.txt"
    path.symlink_to(target)


@pytest.mark.parametrize(
    "name", [".", "checkpoints", "checkpoints/last.ckpt", ".lock", "config.yaml", "hparams.yaml", "x"]
)
def test_a_link_that_leads_out_of_the_folder_is_refused(run: Path, name: str, outside: Path, refused: Refused) -> None:
    (run / ".lock").unlink(missing_ok=True)
    (run / "hparams.yaml").unlink(missing_ok=True)
    replace_by_link(run / name if name != "." else run, outside)
    before = content(outside)
    line = refused(*RESUME)
    assert f"{run / name if name != '.' else run}: is a symbolic link" in line
    assert content(outside) == before


def test_ones_own_links_go_on(run: Path, tmp_path: Path) -> None:
    """The folder of all runs on another disk; a link within the folder, as ModelCheckpoint makes."""
    shutil.move("runs", tmp_path / "disk")
    os.symlink(tmp_path / "disk", "runs")
    (run / "checkpoints" / "newest.ckpt").symlink_to("last.ckpt")
    main(RESUME)
    assert json.loads((run / "summary.json").read_text())["samples"] == 24


def test_a_failed_run_removes_only_what_it_created(run: Path, tmp_path: Path, refused: Refused) -> None:
    """A run that was killed before its first checkpoint, beside which somebody has put a file."""
    shutil.rmtree(run / "checkpoints")
    (run / "summary.json").unlink()
    (run / "notes.txt").write_text("mine")
    before = content(run)
    fail = "--trainer.callbacks=[{class_path: tests.cli.harness.FailAt, init_args: {step: 1, rank: 0}}]"
    assert "alone cannot go on" in refused(*RESUME[:-1], "--ckpt_path=last", fail)
    assert {name: before.get(name) for name in content(run)} == before
    assert "alone cannot go on" in refused(*FIT, fail)
    assert only_run(tmp_path / "runs").samefile(run)  # nothing is left of the new one
