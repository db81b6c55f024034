"""Measures of how near a filter's full covariance is to block-diagonal, along a run (LoKO, Figure 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from filtune.lightning_modules.integrity import read_json
from torch import Tensor, nn

from ..records import write_json
from ..runs import MAPS, MEASURED
from . import block_structure

DIRECTIONS = 8
"""Random directions of the dense prior: its correlations are about 1 / (2 sqrt(DIRECTIONS)) in size."""

SHOWN = (0, 0.025, 0.125, 0.5, 1)
"""Parts of the stream after which the covariance is kept."""


class CovarianceStructure(pl.Callback):
    """Measures the covariance of a filter before the first step, at even distances, and after the last step.

    The scalars are those of :func:`~filtune.experiments.measurements.block_structure.measures`. Of seed 0 the matrices
    themselves are kept, coarsened, for a figure.

    Args:
        dense_prior: Whether to start from :func:`dense_prior` rather than from the optimizer's own diagonal.
        points: Evaluations of a run, beside that before the first step.
        patch: Side of the squares of entries whose mean is kept.
    """

    def __init__(self, dense_prior: bool = False, points: int = 40, patch: int = 10) -> None:
        self.dense_prior, self.points, self.patch = dense_prior, points, patch

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the prior, and measure it.

        Raises:
            ValueError: If the optimizer has no full covariance.
        """
        state = getattr(pl_module.optimizers(use_pl_optimizer=False), "filter", None) or {}
        if "P0" not in state or "P1" in state or state["P0"].dim() != 3 or len(state["P0"]) != 1:
            raise ValueError(
                "trainer.callbacks: CovarianceStructure measures one full covariance; take --config optimizer/ekf_full"
            )
        if trainer.global_step == 0:
            if self.dense_prior:
                P = state["P0"]
                state["P0"] = dense_prior(P[0].diagonal()).unsqueeze(0).to(P)
            self._measure(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Measure at even distances and after the last step."""
        last = int(trainer.estimated_stepping_batches)
        points = {round(part * last / self.points) for part in range(self.points + 1)}
        if trainer.global_step in points | {round(part * last) for part in SHOWN}:
            self._measure(trainer, pl_module)

    def _measure(self, trainer: pl.Trainer, module: Any) -> None:
        step, last = trainer.global_step, int(trainer.estimated_stepping_batches)
        P = module.optimizers(use_pl_optimizer=False).filter["P0"][0]
        shapes = [param.shape for param in module.backbone.parameters() if param.requires_grad]
        partitions = {
            name: block_structure.block_labels(shapes, name).to(P.device) for name in block_structure.PARTITIONS
        }
        found = block_structure.measures(P, partitions)
        for logger in trainer.loggers:
            logger.log_metrics({f"{MEASURED}{name}": value for name, value in found.items()}, step)
        if module.run_config.get("seed_everything") == 0 and step in {round(part * last) for part in SHOWN}:
            path = Path(trainer.default_root_dir) / MAPS
            maps = read_json(path) if path.is_file() else {}
            for name, M in (("covariance", P), ("correlation", block_structure.correlation(P))):
                maps.setdefault(name, {})[str(step)] = coarse(M, self.patch)
            write_json(path, maps)


def dense_prior(variances: Tensor) -> Tensor:
    """Return a dense prior with these variances, (n,): D^1/2 (I + G G')/2 D^1/2, (n, n).

    The rows of G (n, DIRECTIONS) are random points of the unit sphere, so that its eigenvalues are at least half the
    least variance.
    """
    drawn = torch.randn(len(variances), DIRECTIONS, dtype=variances.dtype)  # on the CPU: the same on every device
    G = nn.functional.normalize(drawn.to(variances.device), dim=1)
    scale = variances.sqrt()
    return scale.unsqueeze(1) * (torch.eye(len(scale), dtype=scale.dtype, device=scale.device) + G @ G.mT) * scale / 2


def coarse(M: Tensor, patch: int) -> list[list[float]]:
    """Return the means of the absolute values of square patches, three digits each."""
    means = nn.functional.avg_pool2d(M.abs().unsqueeze(0), patch, ceil_mode=True).squeeze(0)
    return [[float(f"{value:.3g}") for value in row] for row in means.tolist()]
