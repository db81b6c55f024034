"""The categorical likelihood: classes, observed as probabilities, as logits, or through its natural parameters.

Shapes throughout: ``B`` batch, ``m`` outputs, ``d`` observation coordinates.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..constants import constant
from .base import Innovation, Likelihood, check_observation, identity_cotangents, upcast, upcast_graph
from .tasks import MISSING, BadLabel, Coding, Encoded, Metric, label_name, short_list


@lru_cache(maxsize=16)
def simplex_basis(m: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return an orthonormal basis U of the complement of the vector of ones, (m, m - 1), by Helmert's construction.

    Probabilities and residuals of m classes sum to a constant, so they vary in these m - 1 directions alone.
    U'U = I and UU' = I - 11'/m.
    """
    index = torch.arange(1, m, dtype=torch.float64)
    scale = 1 / (index * (index + 1)).sqrt()
    upper = torch.triu(torch.ones(m, m - 1, dtype=torch.float64)) * scale
    subdiagonal = torch.zeros(m, m - 1, dtype=torch.float64)
    subdiagonal[1:] = torch.diag(index * scale)
    return (upper - subdiagonal).to(dtype=dtype, device=device)


class Categorical(Likelihood):
    """Softmax over m classes.

    Observed as ``probabilities`` (LoKO eq. 6): y is one-hot, h the softmax, and the m - 1 coordinates are those
    of :func:`simplex_basis`. Observed as ``logits``: y is ``target_scale`` times one-hot and h the logits, m
    coordinates; of two classes the difference of the logits is observed, against +-``target_scale``.

    A target is the index of a class, (B,), of any integer type or boolean. No index is ignored: leave samples without
    a label, which torch's cross-entropy marks by -100, out of the batch. The negative log-likelihood also takes
    probabilities, (B, m), of floating type, as first-order optimizers do.

    Args:
        outputs: Logits, (B, m).
        target_scale: Scale of the target where logits are observed; default 1 for more than two classes and
            2 for two.

    Raises:
        ValueError: If there are fewer than two classes.
    """

    kind = "classification"
    has_classes = True
    is_softmax = True
    is_discrete = True
    online_metrics: ClassVar = ("accuracy", "top5")
    validation_metrics: ClassVar = ("accuracy",)
    target_requirement: ClassVar[str] = (
        "be the index of a class, from 0 to below {m}; leave samples without a label out"
    )
    problem_type = "single_label_classification"

    def __init__(self, outputs: Tensor, target_scale: float | None = None) -> None:
        super().__init__(outputs)
        self.classes = outputs.shape[1]
        if self.classes < 2:
            raise ValueError("Categorical takes at least two logits; use Gaussian for a single value")
        self.target_scale = target_scale if target_scale is not None else (2.0 if self.classes == 2 else 1.0)

    def mean(self) -> Tensor:
        """Return the class probabilities, (B, m)."""
        return upcast(self.outputs).softmax(-1)

    def nll(self, target: Tensor) -> Tensor:
        """Return the cross-entropy, averaged over the batch, ()."""
        return torch.nn.functional.cross_entropy(upcast_graph(self.outputs), target)

    def innovation(self, target: Tensor, observation: str = "probabilities") -> Innovation:
        """Return residual and cotangents of the probabilities (d = m - 1) or the logits (d = m; 1 for two classes).

        Raises:
            ValueError: If ``observation`` is neither ``probabilities`` nor ``logits``.
        """
        check_observation(observation)
        return self._observe_logits(target) if observation == "logits" else self._observe_probabilities(target)

    def natural(self, target: Tensor) -> Innovation:
        """Return the logits in the m - 1 coordinates U'z, with F = U'(diag(p) - pp')U and residual U'(y - p).

        F = LL' with L = U'D(I - qq'), D = diag(q), q = sqrt(p): nothing is divided by a small probability. Of two
        classes F is 2 p_0 p_1.
        """
        check_index(target)
        p, basis = self.mean(), self._basis()
        observed, q = basis.index_select(0, target), p.sqrt()
        if self.classes == 2:
            factor = (math.sqrt(2) * q.prod(1)).view(-1, 1, 1)
        else:
            scaled = q.unsqueeze(-1) * basis  # DU, so that L' = (I - qq') DU
            factor = (scaled - q.unsqueeze(-1) * (q.unsqueeze(1) @ scaled)).mT
        return Innovation(observed - p @ basis, basis.mT.expand(len(p), -1, -1), observed, factor)

    def natural_along(self, target: Tensor, directions: Tensor) -> Innovation:
        """Return :meth:`natural` in a few directions: C'F C = LL' by a QR factorisation of (I - qq')DC, O(m k^2)."""
        p, C = self.mean(), directions.to(self.outputs.device)
        observed = C.gather(2, target.view(-1, 1, 1).expand(-1, C.shape[1], 1)).squeeze(2)
        q = p.sqrt().unsqueeze(1)
        scaled = q * C
        factor = torch.linalg.qr((scaled - torch.bmm(scaled, q.mT) * q).mT, mode="r").R.mT
        residual = observed - torch.bmm(C, p.unsqueeze(2)).squeeze(2)
        return Innovation(residual, C, observed, factor)

    def contrasts(self, k: int, target: Tensor | None = None) -> Tensor | None:
        """Return the directions of :func:`contrasts_between`, (B, k or k + 1, m)."""
        p = self.mean().nan_to_num(0)
        if not 0 < k < p.shape[1] - 1:
            return None
        first, further = p.topk(k + 1, dim=1).indices.split([k, 1], 1)
        kept = first
        if target is not None:
            check_index(target)
            label = target.unsqueeze(1)
            is_among = (first == label).any(1, keepdim=True)
            if label.device.type != "cpu" or not bool(is_among.all()):  # a GPU takes a row more sooner than it is read
                kept = torch.cat([first, torch.where(is_among, further, label)], 1)
        return contrasts_between(p, kept).mT

    def self_concordance_bound(self, direction: Tensor) -> Tensor:
        """Return the widest range of the direction over one sample's classes.

        The third derivative is the third moment E (u - Eu)(v - Ev)^2 <= (max u - min u) Var v.
        """
        low, high = direction.aminmax(dim=-1)
        return (high - low).amax()

    def covariance(self) -> Tensor:
        """Return U'(diag(p) - pp')U, the softmax covariance in the m - 1 coordinates, (B, m - 1, m - 1)."""
        p, basis = self.mean(), self._basis()
        return basis.mT @ (torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)) @ basis

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw labels from the softmax, (B,); where it is not a number, any label, for the draw would fail."""
        return torch.multinomial(self.mean().nan_to_num(1.0), 1, generator=generator).squeeze(-1)

    @classmethod
    def infer(cls, values: Sequence[Any], classes: Sequence[str] | None = None) -> Coding:
        """Return the classes given, else all labels found, sorted.

        Raises:
            ValueError: If there are not two different ones.
        """
        if classes is None:
            classes = [str(label_name(value)) for value in sorted(v for v in values if label_name(v) is not None)]
        if len(classes) < 2 or len(set(classes)) < len(classes):
            raise ValueError("a classification needs two different classes at least")
        return Coding(tuple(classes))

    @classmethod
    def encode(cls, values: Sequence[Any], coding: Coding) -> Encoded:
        """Return the index of each label's class, (N,) int64."""
        index: dict[str | None, int] = {name: target for target, name in enumerate(coding.classes)}
        names = [label_name(value) for value in values]
        unknown = f"label not among the classes {short_list(coding.classes)}"
        bad = {
            i: MISSING if name is None else BadLabel(unknown, repr(name))
            for i, name in enumerate(names)
            if name not in index
        }
        return Encoded(torch.tensor([index.get(name, -1) for name in names], dtype=torch.int64), bad)

    @classmethod
    def metrics(cls, outputs: int) -> Mapping[str, Metric]:
        """Return accuracy, F1 (of the second class where there are two), Matthews' correlation and, online, top 5."""
        classes, f1 = {"num_classes": outputs, "validate_args": False}, "torchmetrics.classification."
        micro = {**classes, "average": "micro"}
        known = {
            "accuracy": Metric("torchmetrics.classification.MulticlassAccuracy", micro),
            "f1": Metric(f1 + "BinaryF1Score", {"validate_args": False}, "answer")
            if outputs == 2
            else Metric(f1 + "MulticlassF1Score", classes),
            "matthews": Metric("torchmetrics.classification.MulticlassMatthewsCorrCoef", classes),
        }
        top5 = Metric("torchmetrics.classification.MulticlassAccuracy", {**micro, "top_k": 5})
        return {**known, "top5": top5} if outputs > 5 else known

    def answer(self) -> Tensor:
        """Return the most probable class, (B,)."""
        return upcast(self.outputs).argmax(-1)

    def outcomes(self, mean: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probabilities and the labels as they are."""
        return mean, target

    def predictive(self, covariance: Tensor) -> Tensor:
        """Return the class probabilities averaged over the outputs' uncertainty; :func:`predictive_probabilities`."""
        return predictive_probabilities(upcast(self.outputs), covariance)

    def columns(
        self, coding: Coding, covariance: Tensor | None = None, predictive: Tensor | None = None
    ) -> dict[str, list[Any]]:
        """Return the class, its probabilities, and how uncertain the logits are."""
        p, classes = self.mean(), coding.classes
        found: dict[str, list[Any]] = {"prediction": [classes[label] for label in self.answer().tolist()]}
        found |= by_class("probability", p, classes)
        if covariance is not None and len(classes) == 2:
            found["logit_std"] = difference_variance(covariance)[:, 0, 1].sqrt().tolist()
        elif covariance is not None:
            found |= by_class("logit_std", covariance.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt(), classes)
        return found if predictive is None else {**found, **by_class("probability_bayes", predictive, classes)}

    def summary(self, coding: Coding) -> str:
        """Return how often each class is predicted, and the mean of the largest probability."""
        counts = Counter(coding.classes[label] for label in self.answer().tolist())
        confidence = self.mean().amax(1).mean()
        return f"{counted(len(self.outputs), counts)}; mean confidence {confidence:.3f}"

    def _typed(self, target: Tensor) -> Tensor:
        """Return indices as int64.

        Raises:
            ValueError: If they are of another kind of type, or probabilities are not of floating type.
        """
        is_floating, is_index = target.is_floating_point(), target.dim() == 1
        if is_index == is_floating or target.is_complex():
            needed = "whole numbers, such as torch.int64" if is_index else "of floating type, such as torch.float32"
            what = "indices of classes" if is_index else "probabilities of classes"
            raise ValueError(f"Categorical: {what} must be {needed}, got a target of {target.dtype}")
        return target.long() if is_index else target

    def _target_shapes(self) -> list[tuple[int, ...]]:
        return [(len(self.outputs),), tuple(self.outputs.shape)]  # or probabilities, which only ``nll`` takes

    def _is_valid(self, target: Tensor) -> Tensor:
        return (target >= 0) & (target < self.classes)

    def _basis(self) -> Tensor:
        dtype = torch.float64 if self.outputs.dtype == torch.float64 else torch.float32
        return simplex_basis(self.classes, dtype, self.outputs.device)

    def _observe_probabilities(self, target: Tensor) -> Innovation:
        p, basis = self.mean(), self._basis()
        observed = self._one_hot(target) @ basis
        # d(u'p)/dz = (diag(p) - pp') u, for every column u of the basis
        cotangents = p.unsqueeze(1) * (basis.mT.unsqueeze(0) - (p @ basis).unsqueeze(-1))
        return Innovation(observed - p @ basis, cotangents, observed)

    def _observe_logits(self, target: Tensor) -> Innovation:
        z = upcast(self.outputs)
        if self.classes == 2:
            sign = 2 * target.to(z.dtype) - 1
            observed = (self.target_scale * sign).unsqueeze(-1)
            difference = (z[:, 1] - z[:, 0]).unsqueeze(-1)
            return Innovation(
                observed - difference, constant((-1.0, 1.0), z.dtype, z.device).expand(len(z), 1, 2), observed
            )
        observed = self.target_scale * self._one_hot(target)
        return Innovation(observed - z, identity_cotangents(z), observed)

    def _one_hot(self, target: Tensor) -> Tensor:
        check_index(target)
        return torch.nn.functional.one_hot(target, self.classes).to(upcast(self.outputs).dtype)


def difference_variance(covariance: Tensor) -> Tensor:
    """Return s^2_kj, the variance of z_k - z_j: C_kk + C_jj - 2 C_kj; (B, m, m) -> (B, m, m)."""
    own = covariance.diagonal(dim1=1, dim2=2)
    return (own.unsqueeze(2) + own.unsqueeze(1) - covariance - covariance.mT).clamp_min(0)


def predictive_probabilities(mean: Tensor, covariance: Tensor) -> Tensor:
    r"""Return the probabilities of the classes, averaged over z ~ N(mu, C) by the probit approximation, (B, m).

    With kappa(v) = (1 + pi v / 8)^(-1/2), the log odds of every pair of classes are scaled down by the variance of
    their difference (MacKay 1992; for more than two classes Lu, Ie & Sha 2020, then normalised over k):

    .. math:: p_k \propto \Big(\sum_j \exp(-\kappa(s_{kj}^2) (\mu_k - \mu_j))\Big)^{-1}

    Args:
        mean: Logits mu, (B, m).
        covariance: C, (B, m, m).
    """
    kappa = (1 + math.pi / 8 * difference_variance(covariance)).rsqrt()
    return torch.softmax(-torch.logsumexp(kappa * (mean.unsqueeze(1) - mean.unsqueeze(2)), 2), 1)


def check_index(target: Tensor) -> None:
    """Check that a target is the index of a class, which a filter observes.

    Raises:
        ValueError: If it holds probabilities.
    """
    if target.dim() != 1:
        raise ValueError(
            "Categorical: a target of probabilities has a likelihood alone, which first-order optimizers learn from; a "
            "filter observes the index of a class"
        )


def counted(rows: int, counts: Counter[str]) -> str:
    """Return how often each label is predicted, in words: ``5 rows, predicted: 3 as 'yes', 2 as 'no'``."""
    shares = [f"{count:,} as {name!r}" for name, count in counts.most_common(8)]
    further = len(counts) - len(shares)
    more = f", the rest as {further} further class{'es' if further > 1 else ''}" if further else ""
    return f"{rows:,} rows, predicted: {', '.join(shares) or 'no label'}{more}"


def by_class(name: str, values: Tensor, classes: Sequence[str]) -> dict[str, list[float]]:
    """Return a column NAME_CLASS per class, of values (B, m)."""
    return {f"{name}_{label}": values[:, i].tolist() for i, label in enumerate(classes)}


def contrasts_between(p: Tensor, kept: Tensor) -> Tensor:
    r"""Return orthonormal directions of the logits that distinguish k classes and merge all others.

    Where the classes outside of the k, S, move along their own probabilities, w_j = p_j / sum p, these directions,
    which sum to zero, are {a : a_j = b w_j outside S, 1'a = 0}: the complement of 1 in the span of the e_s and w / |w|,
    by Householder's reflection. The gradient y - p is among them where y is in S, and those of a part of S are among
    those of S.

    Args:
        p: Probabilities, (B, m).
        kept: The classes S, (B, k), k < m.

    Returns:
        Directions C, (B, m, k), C'C = I.
    """
    rest = torch.ones_like(p).scatter(1, kept, 0)
    w = rest * p.clamp_min(torch.finfo(p.dtype).tiny)
    w = w / w.amax(1, keepdim=True)  # first, so that squares do not underflow
    w = w / w.norm(dim=1, keepdim=True)
    one_hot = torch.nn.functional.one_hot(kept, p.shape[1]).to(p.dtype).mT
    span = torch.cat([w.unsqueeze(-1), one_hot], -1)
    ones = span.sum(1)  # coordinates of 1 in the span
    ones = ones / ones.norm(dim=1, keepdim=True)
    v = torch.cat([1 + ones[:, :1], ones[:, 1:]], 1)
    # I - 2 vv'/v'v = I - vv'/v_0 brings the first axis to -1 and the others to the directions orthogonal to it
    return span[..., 1:] - (span @ v.unsqueeze(-1)) @ (v[:, 1:] / v[:, :1]).unsqueeze(1)
