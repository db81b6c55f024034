"""The command line of ``filtune sweep``: what cannot be right is refused before the first run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from filtune.experiments import reproduce, runs, sweep
from filtune.experiments.cells import cells
from filtune.experiments.estimate import run_size
from filtune.experiments.records import Store
from filtune.experiments.runner import shown_command
from filtune.experiments.search import first_round, read_grid
from filtune.experiments.streams import Streams
from filtune.experiments.tables import load_table
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.experiments.conftest import TABLE
from tests.odd_values import ODD, structural

YAML = [value for value in ODD if value != "\ud800"]  # which YAML cannot write
COMMON = ["--config=task/digits", "--config=backbone/lenet5", "--config=optimizer/adamw_1e-3", "--dry-run"]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--grid=optimizer.lr=", "is to be KEY=VALUE,VALUE"),
        ("--grid=optimizer.lr=1,,2", "is to be KEY=VALUE,VALUE"),
        ("--grid=.=1", "is to be an option of data, model, optimizer, trainer"),
        ("--grid=optimizer..lr=1", "is to be an option of data, model, optimizer, trainer"),
        ("--grid=model=1", "is to be an option of data, model, optimizer, trainer"),
        ("--grid=run.root=a,b", "is to be an option of data, model, optimizer, trainer"),
        ("--grid=seed_everything=1,2", "--seeds says how many seeds each point has"),
        ("--grid=optimizer.lr=1e-3,0.001", "0.001 is there twice"),
        ("--grid=optimizer.lrr=1", "no such option; did you mean lr"),
        ("--name=../x", "is to be a short name of letters and digits"),
        ("--name=", "is to be a short name of letters and digits"),
        ("--name=.hidden", "is to be a short name of letters and digits"),
        (f"--name={'x' * 300}", "is to be a short name of letters and digits"),
        ("--metric=accuracy", "no run has this figure; did you mean"),
        ("--metric=", "no run has this figure"),
        ("--halving=0", "must be at least 2"),
        ("--run.root=x", "are kept below its root; say --root"),
        ("--data.max_samples", "is to have a value"),
        ("extra", "not an option"),
    ],
)
def test_mistakes_are_told_in_one_line(option: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^[^\n]*$") as error:
        sweep.main([*COMMON, f"--root={tmp_path}", option])
    assert said in str(error.value)
    assert not list(tmp_path.iterdir())


def test_values_of_a_grid_may_be_lists() -> None:
    found = read_grid(["optimizer.betas=[0.9,0.99],[0.8,0.9]", "optimizer.lr= 1e-3 ,1", "model.x=true,1"])
    assert found["optimizer.betas"] == [[0.9, 0.99], [0.8, 0.9]]
    assert found["optimizer.lr"] == [1e-3, 1]
    assert found["model.x"] == [True, 1]


@pytest.mark.parametrize("value", ["x", [], 1.5, {"a": 1}])
@pytest.mark.parametrize("section", ["data", "trainer"])
def test_the_size_of_a_run_with_odd_options_is_not_known(section: str, value: object) -> None:
    config = {"data": {"init_args": {"max_samples": 10}}, "trainer": {}}
    (config["data"]["init_args"] if section == "data" else config["trainer"]).update(
        {"batch_size": value} if section == "data" else {"max_steps": value}
    )
    assert run_size(config, "own_text") is None


@pytest.mark.parametrize(
    ("content", "said"), [("", "empty"), ("- 1", "no mapping"), ("5", "no mapping"), ("{}", "it has no title")]
)
def test_a_file_that_describes_no_table_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "own.yaml").write_text(content)
    with pytest.raises(ValueError, match=rf"own\.yaml: not the description of a table.*{said}"):
        load_table(str(tmp_path / "own.yaml"))


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a\0b", "x" * 300, "a\nb", "\udcff"])
def test_an_odd_name_is_no_table(name: str) -> None:
    with pytest.raises(ValueError, match="no table or figure"):
        load_table(name)


def test_a_run_of_a_study_has_no_baselines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of its configuration would be further runs in its folder, and the last one its result."""
    started: list[list[str]] = []
    monkeypatch.setattr(runs.subprocess, "Popen", lambda command, **_: started.append(command) or _Ended())
    job = runs.Job("key", {"run": {"baselines": ["sgd"]}}, 0, "digits", "lenet5", "a run")
    with pytest.raises(runs.RunError):
        runs.run(job, Store(tmp_path), threads=1)
    assert "--run.baselines=[]" in started[0]


class _Ended:
    def wait(self) -> int:
        return 0


@given(data=st.data())
@settings(max_examples=150)
def test_a_table_with_odd_values(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    recovery = {"changes": [1], "level": 1, "last": 1}
    comparison = {"method": "loko", "baselines": {"AdamW": ["tuned"]}, "recovery": recovery}
    tree = data.draw(structural({**TABLE, "comparison": comparison, "tuning_seeds": [0]}, YAML))
    path = tmp_path_factory.getbasetemp() / "odd.yaml"
    path.write_text(yaml.safe_dump(tree))
    try:
        table = load_table(str(path))
        found = cells(table)
        assert [cell.key(0) for cell in found]
        assert first_round(table, found, table.seeds, {})
    except (ValueError, OSError) as error:
        assert str(error)  # noqa: PT017


def test_a_table_over_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"title": "t", "of": str(path)}))
    with pytest.raises(ValueError, match=r"own\.yaml: not the description of a table: it is over itself"):
        load_table(str(path))


@pytest.mark.parametrize("option", ["run.resume_changed=true", "x=1", "optimizer=adamw", "optimizer.=1", ".=1"])
def test_a_table_has_options_of_runs_alone(option: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--set .*: is to be an option of data, model, optimizer, trainer, such as"):
        reproduce.main(["loko.table1", "--set", option, f"--root={tmp_path / 'root'}", "--dry-run"])


@pytest.mark.parametrize(
    ("table", "option", "said"),
    [
        ("loko.table1", "measurement.points=3", "there is no measurement that could have this option; leave it out"),
        ("loko.table4", "measurement.widht=3", "no such option; there are decades, grid, ratio, threshold"),
        ("loko.table1", "data.max_sample=3", "no such option; did you mean max_samples"),
    ],
)
def test_an_option_that_a_cell_does_not_have_is_refused(table: str, option: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^{table}, [^\n]*: --set {option.partition('=')[0]}: {said}[^\n]*$"):
        reproduce.main([table, "--set", option, f"--root={tmp_path / 'root'}", "--dry-run"])


def test_a_root_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=r"^--root: .* cannot be made a folder"), Store(root).lock():
            pytest.fail("it is locked")


def test_a_command_is_shown_so_that_it_can_be_typed() -> None:
    assert shown_command("filtune report", Path("a [b]'q\n")) == """filtune report 'a [b]'"'"'q '"""


def test_the_data_of_a_wrong_option_is_not_known_and_the_run_says_why() -> None:
    config = {"data": {"class_path": "filtune.DigitsDataModule", "init_args": {"batch_size": "x"}}}
    job = runs.Job("key", config, 0, "digits", "lenet5", "a run")
    assert Streams().prepared(job) is job
