r"""LoFi: the posterior precision as a diagonal plus a matrix of low rank (Chang et al. 2023, arXiv 2305.19535)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..blocks import BlockJacobian, Gain
from ..cholesky import robust_cholesky
from ..measurement import Measurement
from .base import Correction, Covariance, State


class LowRank(Covariance):
    r"""P^-1 = diag(Upsilon) + V'V with V (L, n): the paper's W is V'.

    A batch adds H'Z'ZH with Z'Z = R^-1. Of [V; ZH] the L leading singular directions are kept, and of the rest its
    diagonal goes into Upsilon, so that the diagonal of P^-1 stays exact:

    .. math::
        [V; ZH] = A \Sigma B^\top, \quad V \leftarrow (\Sigma B^\top)_{1:L}, \quad
        \Upsilon \leftarrow \Upsilon + \mathrm{diag}((\Sigma B^\top)_{>L}^\top (\Sigma B^\top)_{>L})

    While the batches seen have L rows at most, nothing is lost and this is the full filter.
    """

    def names(self) -> list[str]:
        """Diagonal and low-rank part of the precision."""
        return ["precision", "V"]

    def elements(self) -> int:
        """N (L + 1)."""
        return self.n * (self.rank + 1)

    def start(self, prior: Tensor) -> State:
        """Upsilon = 1 / prior, V = 0."""
        return {"precision": 1 / prior, "V": prior.new_zeros(self.rank, self.n)}

    def predict(self, state: State, q: float) -> State:
        """P + q I with the same structure (their predict step, no forgetting).

        With D = (1 + q Upsilon)^-1: Upsilon <- D Upsilon, V <- T'VD, TT' = (I + q V D V')^-1.
        """
        V, shrink = state["V"], 1 / (1 + q * state["precision"])
        VD = V * shrink
        inverse = robust_cholesky(_identity(len(V), V) + q * (VD @ V.mT)).inverse.to(V.dtype)
        return {"precision": shrink * state["precision"], "V": inverse @ VD}

    def project(self, state: State, H: BlockJacobian) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """HPH' = HDH' - (TVDH')'(TVDH'), D = Upsilon^-1, T'T = (I + VDV')^-1; and H, TV."""
        rows, D, V = H.dense(), 1 / state["precision"], state["V"]
        VD = V * D
        TV = robust_cholesky(_identity(len(V), V) + VD @ V.mT).inverse.to(V.dtype) @ V
        TVDH = (TV * D) @ rows.mT
        return (rows * D) @ rows.mT - TVDH.mT @ TVDH, (rows, TV)

    def correct(
        self, state: State, H: BlockJacobian, projected: tuple[Tensor, Tensor], gain: Gain, batch: Measurement
    ) -> Correction:
        """Ke = P H'(W'u + v), and the leading directions of [V; ZH] by the eigenvectors of its Gram matrix."""
        (rows, TV), D = projected, 1 / state["precision"]
        direction = gain.u @ (gain.W @ rows) if gain.v is None else gain.u @ (gain.W @ rows) + gain.v @ rows
        scaled = D * direction
        change = scaled - D * ((TV @ scaled) @ TV)
        stacked = torch.cat([state["V"], batch.information().to(rows.dtype) @ rows])
        values = torch.nan_to_num((stacked @ stacked.mT).double())
        B = torch.linalg.eigh(values).eigenvectors.to(rows.dtype).mT @ stacked
        dropped, kept = B[: len(B) - self.rank], B[len(B) - self.rank :]
        posterior = {"precision": state["precision"] + dropped.square().sum(0), "V": kept}
        return Correction(change, posterior, torch.zeros((), dtype=torch.int64, device=rows.device))

    def variance(self, state: State) -> Tensor:
        """Diagonal of (diag(Upsilon) + V'V)^-1."""
        D, V = 1 / state["precision"], state["V"]
        inverse = robust_cholesky(_identity(len(V), V) + (V * D) @ V.mT).inverse.to(V.dtype)
        return D - (inverse @ (V * D)).square().sum(0)


def _identity(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)
