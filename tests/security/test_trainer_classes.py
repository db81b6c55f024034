"""What an option of the trainer that takes an object may name: classes of Lightning's, and none from elsewhere."""

from __future__ import annotations

import pytest
from filtune.lightning_modules.trust import ForeignClassError
from lightning.pytorch.strategies import SingleDeviceStrategy

from filtune.named_classes import check_classes


class Own(SingleDeviceStrategy):
    """A strategy from elsewhere, which the parser takes for one."""


def test_a_strategy_from_elsewhere_is_refused_and_one_of_lightnings_is_not() -> None:
    foreign = {"trainer": {"strategy": {"class_path": f"{__name__}.Own"}}}
    with pytest.raises(ForeignClassError, match=rf"^trainer.strategy: names {__name__}.Own, which may not be called"):
        check_classes(foreign, None)
    check_classes({"trainer": {"strategy": {"class_path": "lightning.pytorch.strategies.DDPStrategy"}}}, None)
