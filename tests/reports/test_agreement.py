"""The paper's order at our scale."""

from __future__ import annotations

from pathlib import Path

import pytest
from filtune.reports.agreement import Agreement
from filtune.reports.document import assemble
from filtune.reports.sections import Section

from tests.reports.factory import manifest, own_table, runs


def section(root: Path, loko: list[float], adamw: list[float]) -> Section:
    made = {"loko/a": runs("loko/a", loko), "adamw/a": runs("adamw/a", adamw)}
    manifest(root, "own.table", made, scale={"max_samples": 100})
    return assemble([root], []).sections[0]


@pytest.mark.parametrize(
    ("loko", "adamw", "verdict"),
    [
        ([70.0, 71.0, 72.5], [60.0, 61.5, 62.0], Agreement.AGREES),
        ([60.0, 61.5, 62.0], [70.0, 71.0, 72.5], Agreement.DISAGREES),
        ([70.0, 60.0, 65.0], [60.0, 70.0, 66.0], Agreement.NOISE),
        ([70.0], [60.0], Agreement.ONE_SEED_AGREES),
        ([60.0], [70.0], Agreement.ONE_SEED_DISAGREES),
    ],
)
def test_method_against_adamw_and_the_best_of_a_column(
    own: Path, loko: list[float], adamw: list[float], verdict: Agreement
) -> None:
    found = section(own, loko, adamw)  # published, LoKO wins in column a by 5
    order, best = found.orders["loko", "a/online_accuracy"], found.orders["", "a/online_accuracy"]
    assert order.verdict is verdict
    assert (order.published, order.note) == ("+5.00", "")
    assert (best.published, best.verdict) == ("LoKO", verdict)
    assert (order.p is None) == (len(loko) == 1)


def test_where_the_paper_says_that_adamw_wins_so_must_ours(own: Path) -> None:
    made = {"loko/b": runs("loko/b", [60.0, 61.5, 62.0]), "adamw/b": runs("adamw/b", [70.0, 71.0, 72.5])}
    manifest(own, "own.table", made)  # published, AdamW wins in column b by 4
    found = assemble([own], []).sections[0]
    best = found.orders["", "b/online_accuracy"]
    assert found.orders["loko", "b/online_accuracy"].verdict is Agreement.AGREES
    assert (best.ours, best.verdict) == ("AdamW", Agreement.AGREES)


def test_the_test_is_paired_by_seed(own: Path) -> None:
    # the same advantage in each seed, far below the spread between seeds
    found = section(own, [60.5, 70.6, 80.4], [60.0, 70.0, 80.0])
    assert found.orders["loko", "a/online_accuracy"].verdict is Agreement.AGREES


def test_a_published_tie_claims_nothing(own: Path) -> None:
    same = [[75.0, 1.0], [74.0, 1.0]]
    rows = [{"name": name, "title": name, "optimizer": name, "published": same} for name in ("loko", "adamw")]
    own_table(own.parent, rows=rows)
    found = section(own, [70.0, 71.0], [60.0, 61.0])
    assert not found.orders


def test_a_published_difference_within_noise_is_marked(own: Path) -> None:
    rows = [
        {"name": "loko", "title": "LoKO", "optimizer": "loko", "published": [[75.0, 1.0], None]},
        {"name": "adamw", "title": "AdamW", "optimizer": "adamw", "published": [[75.1, 1.0], None]},
    ]
    own_table(own.parent, rows=rows)
    assert section(own, [70.0, 71.0], [60.0, 61.0]).orders["loko", "a/online_accuracy"].note


def test_dora_is_compared_with_adamw_on_dora(tmp_path: Path) -> None:
    from tests.reports.factory import whole_table

    whole_table(tmp_path, "loko.table2")
    reference = assemble([tmp_path], ["loko.table2"]).sections[0].reference
    assert (reference["dora-kalman"], reference["loko"]) == ("dora-adamw", "adamw")
