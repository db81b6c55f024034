"""What a trainer may not be told, said before anything is trained."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.strategies import DDPStrategy


def check_precision(precision: object) -> None:
    """Refuse float16 by gradient scaling.

    Raises:
        ValueError: If the precision is 16-mixed.
    """
    if str(precision) in ("16", "16-mixed"):
        raise ValueError(
            f"trainer.precision: {precision} scales gradients and cannot drive an optimizer by its closure; take "
            "bf16-mixed or 32-true"
        )


def check_strategy(trainer: pl.Trainer) -> None:
    """Refuse several processes that do not each hold all parameters, or whose samples Lightning would share out.

    Raises:
        ValueError: Naming the trainer's argument.
    """
    if trainer.world_size == 1:
        return
    if type(trainer.strategy) is not DDPStrategy:
        name = type(trainer.strategy).__name__
        raise ValueError(f"trainer.strategy: {name} does not keep all parameters on every process; take ddp")
    if trainer._accelerator_connector.use_distributed_sampler:
        raise ValueError(
            "trainer.use_distributed_sampler: the data modules share the samples out themselves; set it to false"
        )
