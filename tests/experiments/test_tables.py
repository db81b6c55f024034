"""The papers' tables and the studies as data: complete, consistent, and sharing their runs."""

import re

import pytest
import yaml
from filtune.experiments.cells import Scale, cells, select
from filtune.experiments.composition import CONFIGS, find_config, lookup
from filtune.experiments.tables import load_table, table_names

PAPERS = {
    "loko": {*(f"table{n}" for n in range(1, 6)), *(f"figure{n}" for n in range(1, 8))},
    "grng": {
        *(f"table{n}" for n in (1, 2, 3, 6, 7)),
        *(f"figure{n}" for n in range(1, 9)),
        *("figure1_online", "table7_sst2", "theorem", "theorem_proof"),
    },
}


def test_every_table_and_figure_is_there():
    assert set(table_names()) == {f"{paper}.{table}" for paper, tables in PAPERS.items() for table in tables}


@pytest.mark.parametrize("name", table_names())
def test_parts_exist(name):
    table = load_table(name)
    for column in table.columns:
        find_config(f"task/{column.task}")
        if "measurement.class_path" not in table.set:
            assert column.backbone
        if column.backbone:
            find_config(f"backbone/{column.backbone}")
    for row in table.rows:
        if "measurement.class_path" not in table.set:
            assert row.optimizer
        if row.optimizer:
            find_config(f"optimizer/{row.optimizer}")


@pytest.mark.parametrize("name", [f"{paper}.table{n}" for paper in PAPERS for n in (1, 2, 3)])
def test_what_was_published_is_a_mean_and_a_deviation(name):
    table = load_table(name)
    published = [row for row in table.rows if row.published]
    assert len(published) >= 3
    for row in published:
        for column, cell in zip(table.columns, row.published, strict=True):
            if cell is None:
                assert row.columns is not None
                assert column.name not in row.columns
            elif "metrics" in table.raw:
                assert len(cell) == len(table.raw["metrics"])
                assert all(value > 0 for value in cell)
            else:
                mean, deviation = cell
                assert 0 < mean <= 100
                assert 0 <= deviation < 5


def test_published_values_are_those_printed():
    """A few cells of each table, read off the papers."""
    found = {
        (name, row.name, column.name): row.published[i]
        for name in table_names()
        for table in [load_table(name)]
        for row in table.rows
        if row.published
        for i, column in enumerate(table.columns)
    }
    assert found["loko.table1", "loko", "cifar100-resnet50"] == [79.39, 0.12]
    assert found["loko.table1", "dora-adagrad", "cifar100-vit-b"] == [85.39, 1.11]
    assert found["loko.table2", "adamw", "mrpc-large"] == [93.04, 0.4]
    assert found["loko.table2", "dora-kalman", "cola-base"] == [84.05, 0.0]
    assert found["loko.table3", "adagrad", "mnist-densenet121"] == [23000, 0.026]
    assert found["grng.table1", "r-kalman", "food101"] == [86.2, 0.01]
    assert found["grng.table2", "reng", "cola"] == [62.2, 0.0]
    assert found["grng.table2", "ngd", "stsb"] == [81.1, 0.2]
    assert found["grng.table3", "r-kalman", "cifar100"] == [817, 1.34]


@pytest.mark.parametrize("name", [name for name in table_names() if "of" in load_table(name).raw])
def test_figures_and_tables_of_times_share_the_runs_of_tables(name):
    table = load_table(name)
    sources = [table.raw["of"]] if isinstance(table.raw["of"], str) else table.raw["of"]
    runs = {cell.key(0) for source in sources for cell in cells(load_table(source))}
    assert {cell.key(0) for cell in cells(table)} <= runs


@pytest.mark.parametrize("name", ["loko.table1", "loko.table2", "grng.table1", "grng.table2"])
def test_every_table_has_a_tuned_adamw(name):
    (row,) = [row for row in load_table(name).rows if row.name == "adamw-tuned"]
    assert len(row.grid["optimizer.lr"]) >= 3
    assert row.columns is None


def test_columns_that_differ_in_their_metric_share_their_runs():
    table = load_table("grng.table6")
    by_name = {cell.name: cell.key(0) for cell in cells(table)}
    assert len({by_name[f"ring-2/{column.name}"] for column in table.columns}) == 1
    assert [column.chosen_by for column in table.columns] == [None, "val_pearson", "val_pearson"]
    settings = {lookup(cell.config, "optimizer.skip") for cell in cells(table) if cell.name.startswith("ring-")}
    assert settings == {2, 4, 6, 8, 10}


def test_a_measurement_has_no_backbone_to_stand_in_for():
    """A cell of the theorem is no run of fit: --backbone concerns those that have one."""
    plain, scaled = (cells(load_table("grng.theorem"), scale)[0] for scale in (Scale(), Scale(8, "lenet5")))
    assert (plain.backbone, scaled.backbone) == ("", "")
    assert lookup(scaled.config, "data.max_samples") == 8
    assert "model" not in scaled.config
    assert lookup(plain.config, "measurement.width") == 64
    bounds = cells(load_table("loko.table4"), Scale(8, "lenet5"))
    assert {cell.backbone for cell in bounds} == {"lenet5"}


def test_hyper_parameters_reach_the_cells():
    by_name = {cell.name: cell.config for cell in cells(load_table("grng.table2"))}
    config = by_name["ring/stsb"]
    assert config["data"]["init_args"]["batch_size"] == 100
    assert config["optimizer"]["init_args"]["rho"] == 4e-3
    assert config["optimizer"]["init_args"]["skip"] == 4
    assert config["model"]["backbone"]["targets"] == ["query", "value"]
    assert by_name["adamw/mrpc"]["model"]["schedule"]["warmup"] == 200
    assert by_name["ring-literal/stsb"]["optimizer"]["init_args"]["paper_exact"] is True
    assert by_name["adamw-tuned/rte/lr=0.003"]["optimizer"]["init_args"]["lr"] == 3e-3


def test_a_scale_changes_all_cells_and_is_named():
    scale = Scale(2000, "minilm", {"trainer.max_epochs": 1})
    table = load_table("loko.table2")
    for cell in cells(table, scale):
        assert cell.backbone == "minilm"
        assert cell.config["data"]["init_args"]["max_samples"] == 2000
        assert cell.config["trainer"]["max_epochs"] == 1
    assert scale.name == "minilm,2000,max_epochs=1"
    assert Scale().name == ""
    assert not {cell.key(0) for cell in cells(table)} & {cell.key(0) for cell in cells(table, scale)}


def test_a_shorter_run_has_a_shorter_warm_up():
    """500 of 8 epochs of 6,136 batches are one in a hundred steps; so they are of 3,200 samples in 8 epochs."""
    table = load_table("grng.table2")
    (whole,) = select(cells(table), ["adamw/mnli-mm"])
    (short,) = select(cells(table, Scale(3200)), ["adamw/mnli-mm"])
    (said,) = select(cells(table, Scale(3200, set={"model.schedule.warmup": 7})), ["adamw/mnli-mm"])
    assert whole.config["model"]["schedule"]["warmup"] == 500
    assert short.config["model"]["schedule"]["warmup"] == 500 * (8 * 50) // (8 * 6136)
    assert said.config["model"]["schedule"]["warmup"] == 7


def test_cells_are_chosen_by_row_column_or_pattern():
    found = cells(load_table("loko.table2"))
    assert {cell.name for cell in select(found, ["loko"])} == {c.name for c in found if c.name.startswith("loko/")}
    assert all(cell.name.split("/")[1] == "sst2-base" for cell in select(found, ["sst2-base"]))
    assert len(select(found, ["adamw-tuned/cola-base"])) == 3
    (point,) = select(found, ["adamw-tuned/cola-base/lr=0.001"])
    assert point.config["optimizer"]["init_args"]["lr"] == 1e-3
    assert len(select(found, ["dora-*/mrpc-*"])) == 6
    assert select(found, []) == found


def test_an_unknown_table_or_cell_suggests_near_ones():
    with pytest.raises(ValueError, match=r"no table or figure 'loko.tabel2'; did you mean .*loko.table2"):
        load_table("loko.tabel2")
    with pytest.raises(ValueError, match=r"--cells lokoo/sst2-base: no such cell; did you mean .*loko/sst2-base"):
        select(cells(load_table("loko.table2")), ["lokoo/sst2-base"])


def test_a_wrong_table_is_named(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("title: nothing")
    with pytest.raises(ValueError, match=r"mine.yaml: not the description of a table: it has no metric"):
        load_table(str(file))
    raw = yaml.safe_load((CONFIGS / "papers" / "loko" / "table2.yaml").read_text())
    raw["rows"][0]["published"].pop()
    file.write_text(yaml.safe_dump(raw))
    with pytest.raises(ValueError, match=re.escape("row loko: published has 5 values for 6 columns")):
        load_table(str(file))


FIGURE = {"title": "Figure", "panels": [{"title": "Panel", "y": "online/accuracy", "lines": {"LoKO": "loko/a"}}]}


@pytest.mark.parametrize(
    ("panel", "said"),
    [
        ({"y": 3}, "panel 1: y is 3, not a text"),
        ({"log": ["z"]}, "panel 1: log is 'list', not a list of x and y"),
        ({"lines": {"LoKO": 7}}, "it is not a mapping"),
        ({"lines": {"LoKO": {"y": "online/loss"}}}, "it has no figures, number 1, panel 1: LoKO: cell"),
        ({"lins": {}}, "panel 1: has no lins; did you mean lines"),
        ({"maps": "covariance"}, "it has no figures, number 1, panel 1: cell"),
    ],
)
def test_a_wrong_panel_of_a_figure_is_named(panel, said, tmp_path):
    file = tmp_path / "mine.yaml"
    raw = yaml.safe_load((CONFIGS / "papers" / "loko" / "table2.yaml").read_text())
    raw["figures"] = [FIGURE]
    file.write_text(yaml.safe_dump(raw))
    assert load_table(str(file)).raw["figures"] == [FIGURE]
    raw["figures"] = [{**FIGURE, "panels": [{**FIGURE["panels"][0], **panel}]}]
    file.write_text(yaml.safe_dump(raw))
    with pytest.raises(ValueError, match=re.escape(said)):
        load_table(str(file))


STUDIES = sorted((CONFIGS / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_can_be_run(path) -> None:
    table = load_table(str(path))
    found = cells(table)
    assert len({cell.key(0) for cell in found}) == len(found)
    assert all(lookup(cell.config, "optimizer.class_path") for cell in found)
    rules, rows = table.raw.get("comparison"), {row.name for row in table.rows}
    if rules is None:  # its columns are published ones
        return
    assert {rules["method"], *(row for rows_of in rules["baselines"].values() for row in rows_of)} == rows
    own = {name for name, target in rules.get("targets", {}).items() if "best_of" not in target}
    assert own <= set(rules["baselines"])
    reserved = rules.get("reserved", {})
    assert set(reserved.get("seeds", [])) <= set(table.seeds) - set(table.tuning_seeds)
    assert set(reserved.get("columns", [])) <= {column.name for column in table.columns}
    assert set(table.tuning_seeds) <= set(table.seeds)
