"""A damaged file costs a report or a comparison what it holds, and is named; nothing else is lost, nothing raised."""

from __future__ import annotations

import contextlib
import io
import json
import lzma
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filtune.experiments import tables
from filtune.experiments.fields import config_fault, manifest_fault, record_fault, summary_fault
from filtune.experiments.records import pack, write_json
from filtune.reports import compare, figures, report
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.odd_values import ODD, structural
from tests.reports.factory import keep, manifest, own_table, record, runs
from tests.reports.test_compare import make_run

MANY = settings(max_examples=int(os.environ.get("FILTUNE_EXAMPLES", 20)))
"""Each example makes a whole report."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root with a table, a sweep and a packed study, and two runs of ``fit`` beside it."""
    folder = tmp_path_factory.mktemp("whole")
    own_table(folder, comparison={"method": "loko", "baselines": {"AdamW": ["adamw"]}})
    root = folder / "root"
    manifest(root, "own.table", {cell: runs(cell, [80.0, 81.0]) for cell in ("loko/a", "adamw/a", "tuned/a/lr=0.1")})
    manifest(root, None, {"lr=0.1": runs("s", [70.0, 71.0])}, sweep={"grid": {"optimizer.lr": [0.1]}, "metric": "x"})
    other = folder / "other"
    manifest(other, "own.table", {"loko/b": runs("loko/b", [70.0, 71.0]), "adamw/b": runs("adamw/b", [74.0, 74.5])})
    pack([other], root / "other.jsonl.xz")
    shutil.rmtree(other)
    for name, optimizer in (("a", "AdamW"), ("b", "LoKO")):
        run = make_run(folder / "runs" / name, optimizer, lr=0.1)
        sizes = {path.name: path.stat().st_size for path in run.glob("events*")}
        write_json(run / "summary.json", {**read(run / "summary.json"), "event_bytes": sizes})
    for path in root.rglob("*.json"):
        write_json(path, read(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "PAPERS", folder / "papers")
        patch.setattr(figures, "save_figure", lambda *_: "<svg></svg>")  # what is drawn is computed all the same
        patch.setattr(compare, "plot_runs", lambda runs, _: [run.curves for run in runs])
        yield folder


def read(path: Path) -> Any:
    """The content of a JSON file without its checksum."""
    return {name: value for name, value in json.loads(path.read_text()).items() if name != "checksum"}


def attempt(command: Callable[[], object]) -> tuple[str, str, str]:
    """The error of a command in one line, if it refuses, and what it wrote to its two outputs."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as warned:
        try:
            command()
        except ValueError as error:
            return str(error), out.getvalue(), warned.getvalue()
    return "", out.getvalue(), warned.getvalue()


def made(folder: Path, *roots: str) -> tuple[str, str, dict[str, str]]:
    """The error, the warnings and the pages of a report."""
    target = folder / "page"
    shutil.rmtree(target, ignore_errors=True)
    error, _, warned = attempt(lambda: report.main([*(str(folder / root) for root in roots), f"--output={target}"]))
    pages = {path.name: path.read_text() for path in target.glob("*")} if target.is_dir() and not error else {}
    return error, warned, pages


@contextlib.contextmanager
def damaged(path: Path, content: bytes) -> Iterator[None]:
    before = path.read_bytes()
    try:
        path.write_bytes(content)
        yield
    finally:
        path.write_bytes(before)


def check_report(folder: Path, path: Path) -> tuple[dict[str, str], str]:
    """The report is made without the damaged file, naming it, or has no figure that it does not say the reason of."""
    error, warned, pages = made(folder, "root", "runs")
    assert error == "", error
    assert {"index.html", "own.table.md", "sweep-sweep.tex"} & set(pages)
    shown = re.sub("<svg.*?</svg>|<li>.*?</li>", "", pages["index.html"], flags=re.DOTALL)
    assert path.suffix == ".yaml" or not re.search(r"\bnan\b", shown.lower())  # a configuration may name a class NaN
    for line in warned.splitlines():
        assert line.startswith("filtune: warning: ")
    if path.name in warned:
        for name, page in pages.items():
            if name.endswith((".html", ".md", ".tex")):
                assert path.name in page.replace("\\", ""), name
    return pages, warned


JSON_FILES = ["records/*.json", "manifests/own.table.json", "manifests/sweep.json"]


@given(data=st.data(), pattern=st.sampled_from(JSON_FILES))
@MANY
def test_a_record_or_manifest_with_odd_values(whole: Path, data: st.DataObject, pattern: str) -> None:
    path = sorted((whole / "root").glob(pattern))[0]
    tree = data.draw(structural(read(path)))
    with damaged(path, json.dumps(tree).encode()):
        check_report(whole, path)


@given(data=st.data())
@MANY
def test_a_row_of_a_packed_study_with_odd_values(whole: Path, data: st.DataObject) -> None:
    path = whole / "root" / "other.jsonl.xz"
    lines = [json.loads(line) for line in lzma.decompress(path.read_bytes()).decode().splitlines()]
    place = data.draw(st.integers(0, len(lines) - 1))
    lines[place] = data.draw(structural(lines[place]))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    with damaged(path, lzma.compress(text.encode())):
        check_report(whole, path)


@given(data=st.data(), name=st.sampled_from(["summary.json", "config.yaml"]))
@MANY
def test_a_run_with_odd_values(whole: Path, data: st.DataObject, name: str) -> None:
    path = whole / "runs" / "a" / name
    before = read(path) if name == "summary.json" else {
        "seed_everything": 0, "optimizer": {"class_path": "filtune.AdamW", "init_args": {"lr": 0.1}}
    }  # fmt: skip
    with damaged(path, json.dumps(data.draw(structural(before))).encode()):
        check_report(whole, path)
        error, out, warned = attempt(lambda: compare.main([str(whole / "runs"), "--output", str(whole / "c.png")]))
        assert error == ""
        assert "LoKO" in out
        assert "left out" in out or not warned


@pytest.fixture(scope="module")
def intact(whole: Path) -> dict[str, str]:
    """The pages of the whole files."""
    error, _, pages = made(whole, "root", "runs")
    assert error == ""
    return pages


SEALED = [JSON_FILES[0], JSON_FILES[1], "*.jsonl.xz", "../runs/a/events*", "../runs/a/summary.json"]


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans(), name=st.sampled_from(SEALED))
@MANY
def test_flipped_and_cut_bytes(
    whole: Path, intact: dict[str, str], place: float, bit: int, cut: bool, name: str
) -> None:
    """The report has the figures of the whole files, or names the damaged one."""
    path = sorted((whole / "root").glob(name))[0]
    content = bytearray(path.read_bytes())
    at = int(place * len(content))
    if cut:
        del content[at:]
    else:
        content[at] ^= 1 << bit
    with damaged(path, bytes(content)):
        pages, warned = check_report(whole, path)
    assert path.name in warned or pages == intact


@given(data=st.data())
@MANY
def test_the_page_of_a_study(whole: Path, data: st.DataObject) -> None:
    path = sorted((whole / "root" / "records").glob("*.json"))[data.draw(st.integers(0, 3))]
    tree = data.draw(structural(read(path)))
    target = whole / "study.md"
    with damaged(path, json.dumps(tree).encode()):
        command = [str(whole / "root"), "--study", "own.table", "--output", str(target)]
        error, _, warned = attempt(lambda: report.main(command))
        assert error == ""
        assert bool(warned) == ("## Left out" in target.read_text())


@given(data=st.data())
@MANY
def test_a_root_is_packed_whole_or_not_at_all(whole: Path, data: st.DataObject) -> None:
    path = sorted((whole / "root" / "records").glob("*.json"))[0]
    tree = data.draw(structural(read(path)))
    fault = record_fault(tree)
    with damaged(path, json.dumps(tree).encode()):
        error, _, _ = attempt(lambda: report.main([str(whole / "root"), "--pack", str(whole / "p.jsonl.xz")]))
    if fault:
        assert error.startswith(f"--pack: {path} cannot be read")


@pytest.mark.parametrize("check", [record_fault, manifest_fault, summary_fault, config_fault])
@pytest.mark.parametrize("value", ODD)
def test_what_is_something_else_has_a_fault(check: Callable[[Any], str], value: Any) -> None:
    if check is not config_fault or not isinstance(value, dict):
        assert check(value)


def test_where_nothing_is_left_the_report_is_refused_naming_the_files(own: Path) -> None:
    found = record("abc", 0, {"online_accuracy": 80.0})
    manifest(own, "own.table", {"loko/a": {0: found}})
    keep(own, {**found, "metrics": {"online_accuracy": "many"}})
    with pytest.raises(ValueError, match=r"^report: nothing to show under .*abc\.json: damaged, .*accuracy is 'm"):
        report.main([str(own), "--output", str(own / "out")])
    assert not (own / "out").exists()
    run = make_run(own.parent / "a")
    (run / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"^compare: no run can be read: .*summary\.json: damaged"):
        compare.main([str(run)])
    with pytest.raises(ValueError, match=r"^report: nothing to show under .*summary\.json: damaged"):
        report.main([str(run), "--output", str(own / "out")])


def test_a_record_of_another_seed_is_not_shown(own: Path) -> None:
    made = runs("loko/a", [80.0, 81.0])
    path = manifest(own, "own.table", {"loko/a": made})
    content = read(path)
    content["cells"]["loko/a"] = {"0": made[0]["key"], "1": made[0]["key"]}
    path.write_text(json.dumps(content))
    error, warned, _ = made_of(own)
    assert error == ""
    assert "it is of seed 0, the manifest has seed 1: left out" in warned


def made_of(root: Path) -> tuple[str, str, dict[str, str]]:
    return made(root.parent, root.name)


def test_sweeps_of_one_name_have_a_page_each(tmp_path: Path) -> None:
    for name in ("a", "b"):
        manifest(tmp_path / name, None, {"lr=1": runs(name, [1.0])}, sweep={"metric": "online_accuracy"})
    error, _, pages = made(tmp_path, "a", "b")
    assert error == ""
    assert {"sweep-sweep.md", "sweep-sweep-2.md", "sweep-sweep.tex", "sweep-sweep-2.tex"} <= set(pages)


def test_where_no_run_is_finished_there_is_nothing_to_report(tmp_path: Path) -> None:
    manifest(tmp_path / "a", None, {"lr=1": runs("a", [1.0])})
    shutil.rmtree(tmp_path / "a" / "records")
    error, _, _ = made(tmp_path, "a")
    assert error == f"report: nothing to show under {tmp_path / 'a'}: no run is finished"


@pytest.mark.parametrize("name", ["x.nosuch", "x", "folder.png"])
def test_a_plot_has_a_known_format(tmp_path: Path, name: str) -> None:
    make_run(tmp_path / "a")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match=r"--output: .*: name a file that ends in one of \.png"):
        compare.main([str(tmp_path / "a"), "--output", str(tmp_path / name)])


def test_a_page_needs_a_folder(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="--output: .*file cannot be made a folder"):
        report.main([str(tmp_path / "a"), "--output", str(tmp_path / "file")])
