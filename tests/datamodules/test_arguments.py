"""Arguments out of range are refused in one line, and the command line knows them all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from filtune.datamodules import DataError, DigitsDataModule, ImageDataModule, StreamDataModule, TextDataModule
from jsonargparse import ArgumentParser

from tests.datamodules.conftest import rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "--data.batch_size: 0 is too small; it must be at least 1"),
        ({"val_batch_size": 0}, "--data.val_batch_size"),
        ({"max_samples": 0}, "--data.max_samples"),
        ({"max_val_samples": -1}, "--data.max_val_samples"),
        ({"num_workers": -1}, "--data.num_workers"),
        ({"seed": -1}, "--data.seed"),
        ({"val_fraction": 1.0}, "--data.val_fraction: 1.0 is not a fraction"),
        ({"val_fraction": -0.1}, "--data.val_fraction"),
        ({"text_columns": []}, "--data.text_columns: one or two columns are needed, there are 0"),
        ({"text_columns": ["a", "b", "c"]}, "there are 3"),
    ],
)
def test_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as error:
        TextDataModule(**{"source": "a.csv", "text_columns": ["text"], **options})
    assert message in str(error.value)


@pytest.mark.parametrize("module", [TextDataModule, ImageDataModule, DigitsDataModule])
def test_every_argument_has_help(module: type[StreamDataModule]) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(module, "data")
    arguments = [action for action in parser._actions if action.dest.startswith("data.")]
    assert {"data.batch_size", "data.max_samples", "data.seed"} <= {action.dest for action in arguments}
    assert all(action.help and action.help != "==SUPPRESS==" for action in arguments)


def test_digits() -> None:
    module, other = DigitsDataModule(), DigitsDataModule(seed=1, max_val_samples=10)
    module.setup()
    other.setup()
    batch = next(iter(module.val_dataloader()))
    assert (batch["image"].shape, batch["image"].dtype) == ((64, 1, 8, 8), torch.uint8)
    assert (int(batch["image"].min()), int(batch["image"].max())) == (0, 255)
    assert (module.task.name, module.task.outputs, module.task.image_shape) == ("digits", 10, (1, 8, 8))
    first, second = rows(module), rows(other)
    assert first != second
    assert sorted(first) == sorted(second), "the split does not depend on the seed"
    held_out = {row for batch in module.val_dataloader() for row in batch["row"].tolist()}
    assert held_out == set(range(1797)) - set(first)
    assert {row for batch in other.val_dataloader() for row in batch["row"].tolist()} < held_out


def test_digits_from_workers() -> None:
    module = DigitsDataModule(max_samples=6, num_workers=1, batch_size=4)
    module.setup()
    assert len(rows(module)) == 6
