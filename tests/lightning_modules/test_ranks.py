"""What one of several processes may do, and what a run of several may be."""

from __future__ import annotations

from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
from filtune.lightning_modules.checkpoints import compare_configs
from filtune.lightning_modules.launch import is_first, is_first_to_report, other_process_lost
from filtune.lightning_modules.monitoring import check_strategy
from filtune.lightning_modules.runs import CheckpointError
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_only


def trainer(strategy: type, sampler: bool = False) -> pl.Trainer:
    """A trainer as far as it is looked at."""
    connector = SimpleNamespace(use_distributed_sampler=sampler)
    made = strategy.__new__(strategy)
    return SimpleNamespace(world_size=2, strategy=made, _accelerator_connector=connector)  # type: ignore[return-value]


def test_what_shards_parameters_is_refused() -> None:
    check_strategy(trainer(DDPStrategy))
    for strategy in (FSDPStrategy, DeepSpeedStrategy):
        with pytest.raises(ValueError, match=f"^trainer.strategy: {strategy.__name__} .*take ddp$"):
            check_strategy(trainer(strategy))


def test_samples_must_not_be_shared_out_twice() -> None:
    with pytest.raises(ValueError, match="^trainer.use_distributed_sampler: .*set it to false$"):
        check_strategy(trainer(DDPStrategy, sampler=True))


def test_the_batch_of_all_processes_is_what_must_not_change() -> None:
    two, four = ({"data": {"class_path": "a", "init_args": {"batch_size": size}}} for size in (2, 4))
    compare_configs(two, four, ranks=(2, 1))
    with pytest.raises(CheckpointError, match=r"batch_size \(checkpoint 4, now 2\)"):
        compare_configs(two, two, ranks=(2, 1))
    compare_configs({}, {}, ranks=(3, 1))
    assert two["data"]["init_args"] == {"batch_size": 2}
    assert four["data"]["init_args"] == {"batch_size": 4}


@pytest.mark.parametrize(
    ("rank", "environment", "first", "tells"),
    [
        (0, {}, True, True),
        (0, {"RANK": "0"}, True, True),
        (1, {"RANK": "1"}, False, False),  # all were started alike, and the first will tell
        (1, {}, False, True),  # started by the first, which had no cause to stop
        (0, {"NODE_RANK": "1"}, False, True),
    ],
)
def test_one_process_opens_the_folder_and_one_tells(
    rank: int, environment: dict, first: bool, tells: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    assert is_first() == first
    assert is_first_to_report() == tells


def test_a_single_process_has_lost_no_other() -> None:
    assert other_process_lost(RuntimeError("Connection closed by peer")) is None
