r"""The posterior precision as a diagonal plus a matrix of low rank (LoFi, Chang et al. 2023, arXiv 2305.19535)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...constants import identity
from ...parts import State
from ...ranges import COUNT_OR_NONE, UP_TO_ONE, check_arguments, count
from ..blocks import BlockJacobian, DenseBlock, Gain
from ..monitors.nis import acknowledge
from ..update import MeasurementUpdate
from .base import Correction, Covariance

CHUNK = 1 << 18
"""Elements of V that are compressed at once on a CPU, which keeps what is made of them in its cache."""

MAX_ROWS = 10_000
"""Most rows of V: matrices of that size are decomposed."""


STATE_DTYPES = ("same", "bfloat16")


class Projection(NamedTuple):
    """Intermediate results of HPH' that ``correct`` uses.

    Attributes:
        D: Upsilon^-1, (n,).
        HDH: (rows, rows).
        VDH: (k, rows), over the k rows of V in use.
        TVDH: (k, rows).
        T: (k, k) with T'T = (I + VDV')^-1, float64.
    """

    D: Tensor
    HDH: Tensor
    VDH: Tensor
    TVDH: Tensor
    T: Tensor


class LowRank(Covariance):
    r"""Low-rank precision, P^-1 = diag(Upsilon) + V'V; V (rank + buffer_size, n) is the transpose of the paper's W.

    A batch adds H'Z'ZH with Z'Z = R^-1: the rows ZH are appended to V, which is exact. When there is no more room, V is
    compressed to ``rank`` rows: with [V; ZH] = A Sigma B' the leading singular directions are kept, and of the others
    their diagonal goes into Upsilon, so that the diagonal of P^-1 stays exact:

    .. math::
        V \leftarrow (\Sigma B^\top)_{1:L}, \quad
        \Upsilon \leftarrow \Upsilon + \mathrm{diag}((\Sigma B^\top)_{>L}^\top (\Sigma B^\top)_{>L})

    With ``buffer_size`` 0 that happens at every step, and this is LoFi. A buffer makes compressions rare (fast frequent
    directions, Ghashami et al. 2016): a step costs two passes over V, and the leading directions are those of V D^1/2,
    D = Upsilon^-1, that is in the metric of the diagonal. While the batches seen have no more rows than there is room,
    nothing is lost and this is the full filter.

    V may be kept in bfloat16. Then the rows that are appended or compressed are rounded, entry by entry by at most
    2^-8 of its size, and all else is worked out from the rounded rows: the filter is exact for the information
    that they stand for, so that P stays positive definite.

    Args:
        shapes: Shapes of the parameters, in the order of the state.
        rank: Rows of V after a compression; at least 1.
        buffer_size: Further rows that V has room for; 0 compresses at every step (LoFi).
        rows_per_sample: Leading rows that a sample adds to V; its others go into the diagonal at the next compression.
            0 adds all.
        forgetting_factor: Factor of the information gathered so far when V is compressed after the alarm of the
            consistency check (:mod:`optimizers.kalman.monitors.nis`), in [0, 1]; 1 never forgets.
        state_dtype: Floating type of V: ``same`` as that of the filter, or ``bfloat16``.

    Raises:
        ValueError: If an option is out of range.
    """

    name = "low_rank"
    can_reset = True
    on_host = frozenset({"filled"})
    convertible = frozenset({"rows_per_sample"})
    jacobian_copies = 1  # the rows that V gains
    factorisations = 300  # an eigendecomposition of the batch's information

    def __init__(
        self,
        shapes: Sequence[torch.Size],
        *,
        rank: int = 10,
        buffer_size: int = 0,
        rows_per_sample: int = 0,
        forgetting_factor: float = 1.0,
        state_dtype: str = "same",
    ) -> None:
        super().__init__(shapes)
        check_arguments(
            "",
            [
                ("rank", rank, *count(1, MAX_ROWS).judge(rank)),
                ("buffer_size", buffer_size, *count(0, MAX_ROWS).judge(buffer_size)),
                ("rows_per_sample", rows_per_sample, *COUNT_OR_NONE.judge(rows_per_sample)),
                ("forgetting_factor", forgetting_factor, *UP_TO_ONE.judge(forgetting_factor)),
                ("state_dtype", state_dtype, state_dtype in STATE_DTYPES, f"be one of {', '.join(STATE_DTYPES)}"),
            ],
        )
        self.rank, self.buffer_size, self.rows_per_sample = rank, buffer_size, rows_per_sample
        self.is_rounded = state_dtype == "bfloat16"
        self.forgetting_factor, self.uses_alarm = forgetting_factor, forgetting_factor < 1

    def names(self) -> list[str]:
        """Return the names of Upsilon, V, VDV', the number of rows in use, and of what options add."""
        pending = ["pending"] if self.rows_per_sample else []  # what is to be added to Upsilon
        return ["precision", "V", "gram", "filled", *pending, *(["prior"] if self.uses_alarm else [])]

    def elements(self) -> int:
        """Return (rank + buffer_size + 1 to 3) n and the size of VDV'; two of bfloat16 count as one."""
        rows = self.rank + self.buffer_size
        if self.is_rounded:
            return -(-rows * self.n // 2) + (1 + bool(self.rows_per_sample) + self.uses_alarm) * self.n + rows**2
        return (rows + 1 + bool(self.rows_per_sample) + self.uses_alarm) * self.n + rows**2

    def start(self, prior: Tensor) -> State:
        """Return Upsilon = 1 / prior, V = 0."""
        rows = self.rank + self.buffer_size
        whole = {
            "precision": 1 / prior,
            "pending": torch.zeros_like(prior),
            "V": prior.new_zeros(rows, self.n, dtype=torch.bfloat16 if self.is_rounded else prior.dtype),
            "gram": prior.new_zeros(rows, rows),
            "filled": torch.zeros((), dtype=torch.int64),  # on the host, which must know it
            "prior": 1 / prior,
        }
        return self.select(whole)

    def predict(self, state: State, q: float) -> State:
        """Return P + q I with the same structure (the paper's predict step, without forgetting).

        With D = (1 + q Upsilon)^-1: Upsilon <- D Upsilon, V <- T'VD, TT' = (I + q V D V')^-1.
        """
        k, shrink = int(state["filled"]), 1 / (1 + q * state["precision"])
        VD, V = state["V"][:k] * shrink, torch.zeros_like(state["V"])
        V[:k] = _whitening(q * (VD @ state["V"][:k].to(VD.dtype).mT)).to(VD.dtype) @ VD
        predicted = {**state, "precision": shrink * state["precision"], "V": V, "gram": state["gram"].clone()}
        self._update_gram(predicted)
        return predicted

    def project(self, state: State, H: BlockJacobian) -> tuple[Tensor, Projection]:
        """Return HPH' = HDH' - (TVDH')'(TVDH'), D = Upsilon^-1, T'T = (I + VDV')^-1."""
        D, k = state["precision"].reciprocal(), int(state["filled"])
        HDH, VDH = H.gram(D), H.cross(D, state["V"][:k])
        T = _whitening(state["gram"][:k, :k])
        TVDH = T.to(VDH.dtype) @ VDH
        return HDH - TVDH.mT @ TVDH, Projection(D, HDH, VDH, TVDH, T)

    def correct(
        self, state: State, H: BlockJacobian, projected: Projection, gain: Gain, batch: MeasurementUpdate
    ) -> Correction:
        """Return PH'c = D(H'c - V'T'TVDH'c) with c = W'u + v, and the rows that V gains."""
        D, HDH, VDH, TVDH, T = projected
        c = gain.u @ gain.W if gain.v is None else gain.u @ gain.W + gain.v
        Z = batch.information()
        inner = Z @ HDH.to(Z.dtype) @ Z.mT
        if len(Z) > Z.shape[1]:  # as many rows as coordinates hold the same information
            Z = torch.linalg.qr(torch.nan_to_num(Z), mode="r").R
            inner = Z @ HDH.to(Z.dtype) @ Z.mT
        kept = min(len(Z), self.rows_per_sample * batch.samples) if self.rows_per_sample else len(Z)
        if kept < len(Z):  # the leading directions; for all of them a rotation would make no difference
            rotation = torch.linalg.eigh(torch.nan_to_num(inner)).eigenvectors.flip(1).mT
            Z, inner = rotation @ Z, rotation @ inner @ rotation.mT
        rows = H.combine(torch.cat([c.unsqueeze(0), Z[:kept].to(c.dtype)]))
        delta = self._subtract(rows[0], state["V"][: len(VDH)], T.to(D.dtype).mT @ (TVDH @ c)).mul_(D)
        if self.is_rounded:  # VDV' is that of the rows as they are kept
            new = rows[1:].bfloat16()
            block = DenseBlock(new.to(D.dtype))
            added = {"new": new, "border": block.cross(D, state["V"][: len(VDH)]), "corner": block.gram(D)}
        else:
            border = (VDH @ Z[:kept].mT.to(VDH.dtype)).to(VDH.dtype)
            added = {"new": rows[1:], "border": border, "corner": inner[:kept, :kept].to(VDH.dtype)}
        if kept < len(Z):
            added["left_out"] = H.squares(Z[kept:].to(c.dtype))
        return Correction(delta, added, torch.zeros((), dtype=torch.int64, device=D.device))

    def commit(self, state: State, prior: State, posterior: State, finite: Tensor) -> None:
        """Append the rows, and compress V where they do not fit."""
        for name in (name for name, value in prior.items() if value is not state[name]):
            state[name] = torch.where(finite, prior[name], state[name])
        new, zero = posterior["new"], posterior["new"].new_zeros(())
        border, corner = (torch.where(finite, posterior[name], zero) for name in ("border", "corner"))
        k, more = int(state["filled"]), len(new)
        if "left_out" in posterior:
            state["pending"] += torch.where(finite, posterior["left_out"], zero)
        if k + more <= len(state["V"]):
            torch.where(finite, new, zero, out=state["V"][k : k + more])
            state["gram"][:k, k : k + more] = border
            state["gram"][k : k + more, :k] = border.mT
            state["gram"][k : k + more, k : k + more] = corner
            state["filled"] += more
        elif bool(finite):  # the host waits for the device here anyway, in eigh
            gram = torch.cat([torch.cat([state["gram"][:k, :k], border], 1), torch.cat([border.mT, corner], 1)])
            self._compress(state, new.to(gram.dtype), gram)

    def reset(self, state: State, columns: Sequence[slice], variance: Tensor, when: Tensor) -> None:
        """Set P^-1 to zero between these columns and the others, and to 1 / variance on their diagonal."""
        sizes = [stretch.stop - stretch.start for stretch in columns]
        for stretch, own in zip(columns, variance.split(sizes), strict=True):
            V, precision = state["V"][:, stretch], state["precision"][stretch]
            state["gram"] -= torch.where(when, (V / precision) @ V.to(precision.dtype).mT, 0)
            V.copy_(torch.where(when, 0, V))
            precision.copy_(torch.where(when, 1 / own, precision))
            if self.rows_per_sample:
                state["pending"][stretch] = torch.where(when, 0, state["pending"][stretch])

    def grow(self, state: State, before: Sequence[torch.Size], kept: Tensor, prior: Tensor) -> State:
        """Return Upsilon with 1 / prior and V with columns of zeros for new entries, which leaves VDV' as it is.

        So it is for zero columns of H whatever was compressed: singular directions have zeros where all rows have, and
        the diagonal of the others is zero there.
        """
        V = state["V"].new_zeros(len(state["V"]), self.n).index_copy(1, kept, state["V"])
        grown = {**state, "V": V, "precision": (1 / prior).index_copy(0, kept, state["precision"])}
        if "pending" in state:
            grown["pending"] = torch.zeros_like(prior).index_copy(0, kept, state["pending"])
        if "prior" in state:
            grown["prior"] = (1 / prior).index_copy(0, kept, state["prior"])
        return grown

    def variance(self, state: State) -> Tensor:
        """Return the diagonal of (Upsilon + V'V)^-1."""
        k, D = int(state["filled"]), 1 / state["precision"]
        TVD = _whitening(state["gram"][:k, :k]).to(D.dtype) @ (state["V"][:k] * D)
        return D - TVD.square().sum(0)

    def upgrade(self, saved: State) -> State:
        """Return a saved state with VDV' and the number of rows in use, which LoFi's did not have."""
        if not {"precision", "V"} <= saved.keys():
            return saved
        saved = dict(saved)
        saved.setdefault("filled", torch.tensor(len(saved["V"])))
        if self.rows_per_sample:
            saved.setdefault("pending", torch.zeros_like(saved["precision"]))
        elif "pending" in saved and bool((pending := saved.pop("pending")).any()):
            saved["precision"] = saved["precision"] + pending
            saved.pop("gram", None)
        if "gram" not in saved:
            saved["gram"] = (saved["V"] / saved["precision"]) @ saved["V"].to(saved["precision"].dtype).mT
        return saved

    def _subtract(self, delta: Tensor, V: Tensor, a: Tensor) -> Tensor:
        """Subtract V'a from delta, (n,), in place, for a (k,)."""
        if not self.is_rounded:
            return delta.addmv_(V.mT, a, alpha=-1)
        for columns in _columns(V):
            delta[columns].addmv_(V[:, columns].to(a.dtype).mT, a, alpha=-1)
        return delta

    def _compress(self, state: State, new: Tensor, gram: Tensor) -> None:
        """Keep the leading directions of V and the new rows, given their Gram matrix in the metric of D."""
        k = int(state["filled"])
        if self.buffer_size == 0:  # the paper's metric is the Euclidean one
            gram = torch.nan_to_num(_euclidean_gram(state["V"][:k], new))
        directions = torch.linalg.eigh(gram.double()).eigenvectors.flip(1).mT.to(new.dtype)
        leading, rest = directions.split([self.rank, len(directions) - self.rank])
        are_few = 4 * len(rest) <= self.rank
        state["gram"].zero_()
        state["filled"].fill_(self.rank)
        after = state["gram"][: self.rank, : self.rank]
        for columns in _columns(state["V"]):
            V, precision, added = state["V"][..., columns], state["precision"][columns], new[:, columns]
            before = V[:k].to(new.dtype)
            kept = torch.addmm(leading[:, k:] @ added, leading[:, :k], before)
            if are_few:
                others = torch.addmm(rest[:, k:] @ added, rest[:, :k], before).square_().sum(0)
            else:  # a rotation keeps the norms of the columns, so that the others need not be worked out
                norms = before.square().sum(0) + added.square().sum(0)
                others = (norms - kept.square().sum(0)).clamp_min(0)
            precision += others + state["pending"][columns] if self.rows_per_sample else others
            V[: self.rank] = kept
            if self.is_rounded:
                kept = V[: self.rank].to(new.dtype)
            if not self.uses_alarm:  # here V is in the cache
                after.addmm_(kept / precision, kept.mT)
        state["V"][self.rank :] = 0
        if self.rows_per_sample:
            state["pending"].zero_()
        if self.uses_alarm:
            self._forget(state)
            self._update_gram(state)

    def _forget(self, state: State) -> None:
        """Scale what the data have added to P^-1, where the alarm is raised."""
        factor = torch.where(acknowledge(state), self.forgetting_factor, 1.0).to(state["precision"].dtype)
        state["precision"].sub_(state["prior"]).mul_(factor).add_(state["prior"])
        state["V"] *= factor.sqrt()

    def _update_gram(self, state: State) -> None:
        """Compute VDV' after Upsilon has changed."""
        k = int(state["filled"])
        gram = state["gram"][:k, :k].zero_()
        for columns in _columns(state["V"]):
            V = state["V"][:k, columns].to(gram.dtype)
            gram += (V / state["precision"][columns]) @ V.mT


def _euclidean_gram(V: Tensor, new: Tensor) -> Tensor:
    """Return the Gram matrix of the rows of V and the new ones, (k + more, k + more), without a copy of V."""
    VV, Vn, nn = new.new_zeros(len(V), len(V)), new.new_zeros(len(V), len(new)), new @ new.mT
    for columns in _columns(V):
        part = V[:, columns].to(new.dtype)
        VV.addmm_(part, part.mT)
        Vn.addmm_(part, new[:, columns].mT)
    return torch.cat([torch.cat([VV, Vn], 1), torch.cat([Vn.mT, nn], 1)])


def _columns(rows: Tensor) -> Iterator[slice]:
    """Return all columns, on a CPU in chunks whose temporaries stay in its cache."""
    step = max(1, CHUNK // max(1, len(rows))) if rows.device.type == "cpu" else max(rows.shape[1], 1)
    return (slice(start, start + step) for start in range(0, rows.shape[1], step))


def _whitening(gram: Tensor) -> Tensor:
    """Return T with T'T = (I + gram)^-1, float64."""
    eye = identity(len(gram), torch.float64, gram.device)
    factor = torch.linalg.cholesky_ex(eye + 0.5 * (gram + gram.mT).double()).L
    return torch.linalg.solve_triangular(factor, eye, upper=False)
