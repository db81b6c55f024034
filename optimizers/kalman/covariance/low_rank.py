"""A diagonal plus low rank precision that is compressed now and then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..blocks import BlockJacobian, Gain
from ..measurement import Measurement
from .base import Correction, Covariance, State

CHUNK = 8192
"""Columns of V that are compressed at once on a CPU."""


class Projection(NamedTuple):
    """What ``correct`` uses of the way to HPH'.

    Attributes:
        rows: H, (rows, n).
        HDH: (rows, rows).
        VDH: (k, rows), over the k rows of V in use.
        TVDH: (k, rows).
        T: (k, k) with T'T = (I + VDV')^-1, float64.
    """

    rows: Tensor
    HDH: Tensor
    VDH: Tensor
    TVDH: Tensor
    T: Tensor


class Buffered(Covariance):
    r"""P^-1 = Upsilon + V'V as in LoFi, with room in V for more than the rank.

    A batch's rows H'Z' are appended to V, so that nothing is lost of them and a step costs two passes over V. When
    the room is used up, V is compressed: of its rows the ``rank`` leading directions, in the metric of the diagonal,
    are kept, and of the others their diagonal goes into Upsilon, so that the diagonal of P^-1 stays exact (fast
    frequent directions, Ghashami et al. 2016). A sample adds its ``keep`` leading directions; its others wait for the
    next compression and then go into Upsilon too.

    Args:
        shapes: Shapes of the parameters, in the order of the state.
        rank: Rows of V after a compression.
        buffer: Further rows that V has room for.
        keep: Rows that a sample may add; 0 for all.
        forget: What the information gathered so far counts for, once the innovations have left the band in which they
            are when the filter is consistent (:mod:`optimizers.kalman.nis`); 1 if it is never forgotten. It is looked
            at when V is compressed.
    """

    def names(self) -> list[str]:
        """Upsilon, what will go into it, V, VDV', rows of V in use, 1 / prior if it can come back."""
        return ["precision", "pending", "V", "gram", "filled", *(["prior"] if self.forget < 1 else [])]

    def elements(self) -> int:
        """(rank + buffer + 2 or 3) n, and little."""
        rows = self.rank + self.buffer
        return (rows + 2 + (self.forget < 1)) * self.n + rows**2

    def start(self, prior: Tensor) -> State:
        """Upsilon = 1 / prior, V = 0."""
        rows = self.rank + self.buffer
        return {
            "precision": 1 / prior,
            "pending": torch.zeros_like(prior),
            "V": prior.new_zeros(rows, self.n),
            "gram": prior.new_zeros(rows, rows),
            "filled": torch.zeros((), dtype=torch.int64),  # the host must know it, so it lives there
            **({"prior": 1 / prior} if self.forget < 1 else {}),
        }

    def predict(self, state: State, q: float) -> State:
        """P + q I, as :class:`optimizers.kalman.covariance.low_rank.LowRank` does it."""
        k, shrink = int(state["filled"]), 1 / (1 + q * state["precision"])
        VD, V = state["V"][:k] * shrink, torch.zeros_like(state["V"])
        V[:k] = _whitening(q * (VD @ state["V"][:k].mT)).to(V.dtype) @ VD
        predicted = {**state, "precision": shrink * state["precision"], "V": V, "gram": state["gram"].clone()}
        self._weigh(predicted)
        return predicted

    def project(self, state: State, H: BlockJacobian) -> tuple[Tensor, Projection]:
        """HPH' = HDH' - (TVDH')'(TVDH'), D = Upsilon^-1, T'T = (I + VDV')^-1."""
        rows, k = H.dense(), int(state["filled"])
        HD = rows / state["precision"]
        HDH, VDH = HD @ rows.mT, state["V"][:k] @ HD.mT
        T = _whitening(state["gram"][:k, :k])
        TVDH = T.to(VDH.dtype) @ VDH
        return HDH - TVDH.mT @ TVDH, Projection(rows, HDH, VDH, TVDH, T)

    def correct(
        self, state: State, H: BlockJacobian, projected: Projection, gain: Gain, batch: Measurement
    ) -> Correction:
        """PH'c = D(H'c - V'T'TVDH'c) with c = W'u + v, and the rows that V gains."""
        rows, HDH, VDH, TVDH, T = projected
        c = gain.u @ gain.W if gain.v is None else gain.u @ gain.W + gain.v
        V = state["V"][: len(VDH)]
        change = (c @ rows - (T.to(V.dtype).mT @ (TVDH @ c)) @ V) / state["precision"]
        Z = batch.information()
        inner = Z @ HDH.to(Z.dtype) @ Z.mT
        rotation = torch.linalg.eigh(torch.nan_to_num(inner)).eigenvectors.flip(1).mT
        Z = rotation @ Z
        kept = min(len(Z), self.keep * batch.samples) if self.keep else len(Z)
        new, left_out = (Z.to(rows.dtype) @ rows).split([kept, len(Z) - kept])
        border = (VDH @ Z[:kept].mT.to(VDH.dtype)).to(VDH.dtype)
        corner = (rotation @ inner @ rotation.mT)[:kept, :kept].to(VDH.dtype)
        added = {"new": new, "left_out": left_out.square().sum(0), "border": border, "corner": corner}
        return Correction(change, added, torch.zeros((), dtype=torch.int64, device=rows.device))

    def commit(self, state: State, prior: State, change: Tensor, added: State, finite: Tensor) -> None:
        """Append the rows, and compress where they do not fit."""
        for name in (name for name, value in prior.items() if value is not state[name]):
            state[name] = torch.where(finite, prior[name], state[name])
        added = {name: torch.where(finite, value, 0) for name, value in added.items()}
        k, more = int(state["filled"]), len(added["new"])
        state["pending"] += added["left_out"]
        if k + more <= len(state["V"]):
            state["V"][k : k + more] = added["new"]
            state["gram"][:k, k : k + more] = added["border"]
            state["gram"][k : k + more, :k] = added["border"].mT
            state["gram"][k : k + more, k : k + more] = added["corner"]
            state["filled"] += more
            return
        if not bool(finite):  # the host waits for the device here anyway, in eigh
            return
        top = torch.cat([state["gram"][:k, :k], added["border"]], 1)
        gram = torch.cat([top, torch.cat([added["border"].mT, added["corner"]], 1)])
        self._compress(state, added["new"], gram)

    def renew(self, state: State, variance: Tensor, when: Tensor) -> None:
        """P^-1 gets zeros between the last parameters and the others, and 1 / variance on their diagonal."""
        columns = slice(self.n - len(variance), self.n)
        V, precision = state["V"][:, columns], state["precision"][columns]
        state["gram"] -= torch.where(when, (V / precision) @ V.mT, 0)
        V.copy_(torch.where(when, 0, V))
        precision.copy_(torch.where(when, 1 / variance, precision))
        state["pending"][columns] = torch.where(when, 0, state["pending"][columns])

    def variance(self, state: State) -> Tensor:
        """Diagonal of (Upsilon + V'V)^-1."""
        k, D = int(state["filled"]), 1 / state["precision"]
        TVD = _whitening(state["gram"][:k, :k]).to(D.dtype) @ (state["V"][:k] * D)
        return D - TVD.square().sum(0)

    def _compress(self, state: State, new: Tensor, gram: Tensor) -> None:
        """Keep the leading directions of V and the new rows in the metric of D, given their gram."""
        k = int(state["filled"])
        leading = torch.linalg.eigh(gram.double()).eigenvectors[:, -self.rank :].flip(1).mT.to(new.dtype)
        for columns in _columns(new):
            V, precision, pending = (state[name][..., columns] for name in ("V", "precision", "pending"))
            rows = torch.cat([V[:k], new[:, columns]])
            kept = leading @ rows
            # a rotation keeps the norms of the columns, so that the others' diagonal need not be worked out
            others = (rows.square().sum(0) - kept.square().sum(0)).clamp_min(0)
            precision += others + pending
            V[: self.rank] = kept
        state["V"][self.rank :] = 0
        state["pending"].zero_()
        state["gram"].zero_()
        state["filled"].fill_(self.rank)
        if self.forget < 1:
            self._forget(state)
        self._weigh(state)

    def _forget(self, state: State) -> None:
        """Scale what the data have added to P^-1, where the innovations have left their band; then watch anew."""
        alarm = state["alarm"]
        share = torch.where(alarm, self.forget, 1.0).to(state["V"].dtype)
        state["precision"].sub_(state["prior"]).mul_(share).add_(state["prior"])
        state["V"] *= share.sqrt()
        state["nis"] = torch.where(alarm, torch.ones_like(state["nis"]), state["nis"])

    def _weigh(self, state: State) -> None:
        """VDV' after Upsilon has changed."""
        k = int(state["filled"])
        gram = state["gram"][:k, :k].zero_()
        for columns in _columns(state["V"]):
            V = state["V"][:k, columns]
            gram += (V / state["precision"][columns]) @ V.mT


def _columns(rows: Tensor) -> Iterator[slice]:
    """All columns, on a CPU so many at a time that what is made of them stays in its cache."""
    step = CHUNK if rows.device.type == "cpu" else max(rows.shape[1], 1)
    return (slice(start, start + step) for start in range(0, rows.shape[1], step))


def _whitening(gram: Tensor) -> Tensor:
    """T with T'T = (I + gram)^-1, float64."""
    identity = torch.eye(len(gram), dtype=torch.float64, device=gram.device)
    factor = torch.linalg.cholesky_ex(identity + 0.5 * (gram + gram.mT).double()).L
    return torch.linalg.solve_triangular(factor, identity, upper=False)
