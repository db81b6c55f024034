r"""Row selection: fewer rows of the Jacobian where the likelihood's precision says that they matter little.

Both methods act on an observation through the natural parameters, whose precision is F = LL'. ``top_k`` distinguishes
the k most probable classes, and the label where it is another one, and merges the rest; ``rank_tolerance`` cuts F to
its leading directions.

Shapes: ``B`` batch, ``m`` outputs, ``d`` observation coordinates, ``k`` directions kept.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..likelihoods.base import Innovation, Observation
from ..ranges import BELOW_ONE, COUNT_OR_NONE, check_arguments
from .noise.base import ObservationNoise

ADAPTED = 1
"""Classes that are distinguished in a pre-trained model of which a part is trained."""

WHOLE = 9
"""Classes that are distinguished in a network whose weights are all trained: of ten classes all."""


class RowSelection:
    """Selection of the rows of the Jacobian that are computed.

    Args:
        top_k: How many classes of a sample are distinguished, and the label beside them; 0 for all; None for what
            :meth:`suit` takes, and all before.
        rank_tolerance: Trace of F that may be left out in every sample; 0 for none.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, top_k: int | None = 0, rank_tolerance: float = 0.0) -> None:
        check_arguments(
            "",
            [
                ("top_k", top_k, *COUNT_OR_NONE.judge(top_k or 0)),
                ("rank_tolerance", rank_tolerance, *BELOW_ONE.judge(rank_tolerance)),
            ],
        )
        self.top_k, self.rank_tolerance = top_k or 0, rank_tolerance
        self.is_open = top_k is None

    def suit(self, model: nn.Module) -> None:
        """Take ``ADAPTED`` classes for a model of which some weights are frozen, else ``WHOLE``, unless it was said.

        In a network that learns from scratch, the differences between improbable classes teach the layers what there
        is to see; pre-trained layers know it, and one row does as well as all (docs/research/filtune.md).
        """
        self.top_k = self._classes(is_adapted=not all(param.requires_grad for param in model.parameters()))

    def count(self, coordinates: int, is_adapted: bool) -> int:
        """Return the most rows of a sample, that whose label is none of the k most probable classes.

        Args:
            coordinates: Observation coordinates of a sample, d.
            is_adapted: Whether weights of the model are frozen.
        """
        k = self._classes(is_adapted)
        return min(k + 1, coordinates) if k else coordinates

    def _classes(self, is_adapted: bool) -> int:
        """Return how many classes are distinguished; 0 for all."""
        return (ADAPTED if is_adapted else WHOLE) if self.is_open else self.top_k

    def check(self, update: str, noise: ObservationNoise | None) -> None:
        """Check that the update can leave out rows.

        Args:
            update: Name of the update.
            noise: The observation noise; None where the update has none.

        Raises:
            ValueError: If it cannot.
        """
        if self.top_k and update != "posterior_mode":
            raise ValueError(f"top_k needs update posterior_mode; got {update}")
        if self.rank_tolerance and not (noise and noise.from_likelihood):
            known = ", ".join(name for name, part in ObservationNoise.registry.items() if part.from_likelihood)
            raise ValueError(
                f"rank_tolerance needs noise {known}: with other noise no row can be left out; "
                f"got {noise.name if noise else None}"
            )

    def __call__(self, observation: Observation) -> Innovation:
        """Return the batch, observed through the natural parameters, in the selected directions.

        Args:
            observation: The batch.
        """
        likelihood, target = observation.likelihood, observation.target
        seen = likelihood.contrasts(self.top_k, target) if self.top_k else None
        if seen is not None:
            # as many as without the target are the same
            foreseen = seen if seen.shape[1] == self.top_k else likelihood.contrasts(self.top_k)
            assert foreseen is not None
            return likelihood.natural_along(target, seen)._replace(foreseen=foreseen @ seen.mT)
        full = observation.natural()
        return leading_directions(full, self.rank_tolerance) if self.rank_tolerance else full


def leading_directions(full: Innovation, tolerance: float) -> Innovation:
    r"""Return the innovation with F cut to its leading directions.

    With F_k = sum_i lambda_i w_i w_i' over the k largest eigenvalues, the update needs the rows w_i'J and the gradient
    e'J alone. A last row, x'J with x = sum_i s_i sqrt(lambda_i) w_i over the directions left out (E = F - F_k) and
    random signs s, has no residual and no precision: its entry of JPJ' has expectation tr(E JPJ'). That trace bounds
    the relative error of the change of state and of the posterior covariance, both in the prior's metric.

    Args:
        full: The innovation in all d coordinates, with the factor of F.
        tolerance: Trace of F that may be left out in every sample; at least one direction is kept.

    Returns:
        The innovation in k + 2 coordinates: the k directions, e / |e|, and x.
    """
    assert full.factor is not None
    L = full.factor.double()
    F = L @ L.mT
    values, vectors = torch.linalg.eigh(torch.nan_to_num(F))
    values, vectors = values.flip(-1).clamp_min(0), vectors.flip(-1)
    left_out = values.sum(-1, keepdim=True) - values.cumsum(-1)
    k = max(1, int((left_out > tolerance).sum(-1).max()) + 1)
    if k + 2 >= F.shape[-1]:
        return full._replace(factor=(vectors * values.sqrt().unsqueeze(1)).to(full.factor))
    e = full.residual.unsqueeze(-1)
    length = e.norm(dim=1, keepdim=True)
    T = torch.cat([vectors[..., :k].to(e), _unit(e, length), _probe(values[:, k:], vectors[..., k:]).to(e)], -1)
    residual = e.new_zeros(len(e), k + 2)
    residual[:, k] = length.flatten()
    factor = e.new_zeros(len(e), k + 2, k)
    factor[:, :k] = torch.diag_embed(values[:, :k].sqrt()).to(e)
    return Innovation(residual, T.mT @ full.cotangents, full.observed, factor, has_residual_probe=True)


def _unit(e: Tensor, length: Tensor) -> Tensor:
    """Return columns e / |e|, (B, d, 1); zero where e is."""
    return e / length.clamp_min(torch.finfo(e.dtype).tiny)


def _probe(values: Tensor, vectors: Tensor) -> Tensor:
    """Return x = sum_i s_i sqrt(lambda_i) w_i with random signs s, (B, d, 1)."""
    signs = torch.randint(2, values.shape, device=values.device) * 2 - 1
    return vectors @ (signs * values.sqrt()).unsqueeze(-1)
