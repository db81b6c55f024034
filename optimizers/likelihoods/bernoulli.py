"""The Bernoulli likelihood: any number of labels per sample, each with an output of its own.

Shapes throughout: ``B`` batch, ``m`` outputs.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from .base import Innovation, Likelihood, check_observation, identity_cotangents, upcast, upcast_graph
from .categorical import by_class, counted
from .tasks import MISSING, BadLabel, Coding, Encoded, Metric, label_name, short_list

SEPARATORS = (";", "|", ",")
"""What may stand between the labels of a text; the first that occurs in any of them does."""

TARGET_SCALE = 2.0
"""Logit that stands for a label where logits are observed, and minus it for its absence."""


class Bernoulli(Likelihood):
    r"""m independent labels with a logistic link, d = m: the multi-label likelihood.

    .. math:: y_k \sim \text{Bernoulli}(p_k), \quad p_k = \sigma(z_k)

    The logits are the natural parameters, with residual y - p and precision F = diag(p (1 - p)), which are also the
    cotangents of the probabilities. Observed as ``logits``, z is compared with +-``TARGET_SCALE``. Targets are zeros
    and ones, (B, m), of floating type.

    Args:
        outputs: Logits, (B, m).
    """

    kind = "multilabel"
    has_classes = True
    is_discrete = True
    takes_lists = True
    online_metrics: ClassVar = ("f1",)
    validation_metrics: ClassVar = ("f1", "exact_match")
    target_requirement: ClassVar[str] = "lie in [0, 1]"
    problem_type = "multi_label_classification"

    def mean(self) -> Tensor:
        """Return the probabilities of the labels, (B, m)."""
        return upcast(self.outputs).sigmoid()

    def nll(self, target: Tensor) -> Tensor:
        """Return the binary cross-entropy, summed over the labels and averaged over the batch, ()."""
        z = upcast_graph(self.outputs)
        return binary_cross_entropy_with_logits(z, self._shaped(target), reduction="none").sum(-1).mean()

    def innovation(self, target: Tensor, observation: str = "probabilities") -> Innovation:
        """Return residual and cotangents of the probabilities or the logits.

        Raises:
            ValueError: If the observation is unknown.
        """
        check_observation(observation)
        y, z = self._shaped(target), upcast(self.outputs)
        if observation == "logits":
            observed = TARGET_SCALE * (2 * y - 1)
            return Innovation(observed - z, identity_cotangents(z), observed)
        return Innovation(y - self.mean(), self.covariance(), y)

    def natural(self, target: Tensor) -> Innovation:
        """Return the logits, with residual y - p and F = diag(p (1 - p))."""
        y, identity = self._shaped(target), identity_cotangents(upcast(self.outputs))
        return Innovation(y - self.mean(), identity, y, torch.diag_embed(self._variance().sqrt()))

    def self_concordance_bound(self, direction: Tensor) -> Tensor:
        """Return the largest entry: the third derivative is p (1 - p)(1 - 2p) u v^2, the second p (1 - p) v^2."""
        return direction.abs().amax()

    def covariance(self) -> Tensor:
        """Return diag(p (1 - p)), (B, m, m)."""
        return torch.diag_embed(self._variance())

    def square_cumulants(self) -> Tensor:
        """Return those of (1 - p)^2 with probability p and p^2 with 1 - p."""
        p = self.mean().double()
        apart = (1 - p).square() - p.square()  # = 1 - 2p
        variance = p * (1 - p) * apart.square()
        return torch.stack([p * (1 - p), variance, variance * apart * (1 - 2 * p)])

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw labels, zeros and ones (B, m)."""
        return torch.bernoulli(self.mean().nan_to_num(0.5), generator=generator)

    @classmethod
    def infer(cls, values: Sequence[Any], classes: Sequence[str] | None = None) -> Coding:
        """Return the labels given, else all found, sorted; and what separates them in a text.

        Raises:
            ValueError: If there are not two different ones.
        """
        texts = [value for value in values if isinstance(value, str) and not value.lstrip().startswith("[")]
        separator = next((mark for mark in SEPARATORS if any(mark in text for text in texts)), SEPARATORS[0])
        if classes is None:
            found = [labels_in(value, separator) for value in values]
            classes = sorted({name for names in found if names is not None for name in names})
        if len(classes) < 2 or len(set(classes)) < len(classes):
            raise ValueError("a multilabel task needs two different labels at least")
        return Coding(tuple(classes), {"separator": separator})

    @classmethod
    def encode(cls, values: Sequence[Any], coding: Coding) -> Encoded:
        """Return zeros and ones, (N, m) float32; a text without labels has none of them."""
        index = {name: k for k, name in enumerate(coding.classes)}
        places: list[tuple[int, int]] = []
        bad = {}
        for i, value in enumerate(values):
            names = labels_in(value, coding.options.get("separator", SEPARATORS[0]))
            unknown = [name for name in names or () if name not in index]
            if names is None:
                bad[i] = MISSING
            elif unknown:
                bad[i] = BadLabel(f"label not among the classes {short_list(coding.classes)}", repr(unknown[0]))
            else:
                places += [(i, index[name]) for name in names]
        targets = torch.zeros(len(values), len(index))
        if places:
            targets[tuple(torch.tensor(places).mT)] = 1
        return Encoded(targets, bad)

    @classmethod
    def metrics(cls, outputs: int) -> Mapping[str, Metric]:
        """Return F1 over all labels, over each label, the share of right labels and of samples right in all."""
        options, package = {"num_labels": outputs, "validate_args": False}, "torchmetrics.classification."
        return {
            "f1": Metric(package + "MultilabelF1Score", {**options, "average": "micro"}),
            "macro_f1": Metric(package + "MultilabelF1Score", options),
            "accuracy": Metric(package + "MultilabelAccuracy", {**options, "average": "micro"}),
            "exact_match": Metric(package + "MultilabelExactMatch", options),
        }

    def answer(self) -> Tensor:
        """Return the labels more probable than not, zeros and ones (B, m)."""
        return (upcast(self.outputs) > 0).float()

    def metric_target(self, target: Tensor) -> Tensor:
        """Return the labels as integers."""
        return target.long()

    def outcomes(self, mean: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return absence and presence of every label, (B m, 2), and which occurred, (B m,)."""
        p = mean.flatten()
        return torch.stack([1 - p, p], 1), target.flatten().long()

    def predictive(self, covariance: Tensor) -> Tensor:
        """Return sigma(kappa z) with kappa = (1 + pi C_kk / 8)^(-1/2) (MacKay 1992), (B, m)."""
        variance = covariance.diagonal(dim1=1, dim2=2).clamp_min(0)
        return ((1 + math.pi / 8 * variance).rsqrt() * upcast(self.outputs)).sigmoid()

    def columns(
        self, coding: Coding, covariance: Tensor | None = None, predictive: Tensor | None = None
    ) -> dict[str, list[Any]]:
        """Return the labels in one text, the probability of each, and how uncertain its logit is."""
        separator = coding.options.get("separator", SEPARATORS[0])
        found: dict[str, list[Any]] = {"prediction": [separator.join(names) for names in self._names(coding)]}
        found |= by_class("probability", self.mean(), coding.classes)
        if covariance is not None:
            deviation = covariance.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
            found |= by_class("logit_std", deviation, coding.classes)
        return found if predictive is None else {**found, **by_class("probability_bayes", predictive, coding.classes)}

    def summary(self, coding: Coding) -> str:
        """Return how often each label is predicted."""
        counts = Counter(name for names in self._names(coding) for name in names)
        return counted(len(self.outputs), counts)

    def _names(self, coding: Coding) -> list[list[str]]:
        return [[coding.classes[k] for k, one in enumerate(row) if one] for row in self.answer().tolist()]

    def _variance(self) -> Tensor:
        z = upcast(self.outputs)
        return z.sigmoid() * (-z).sigmoid()  # 1 - p would round to zero

    def _is_valid(self, target: Tensor) -> Tensor:
        return ((target >= 0) & (target <= 1)) | ~target.isfinite()

    def _shaped(self, target: Tensor) -> Tensor:
        return target.reshape(self.outputs.shape).to(upcast(self.outputs).dtype)


def labels_in(value: Any, separator: str) -> list[str] | None:
    """Return the labels of a list, of a text (also of a JSON list in it), or a single one; None where it is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError):  # a name that begins so
            value = json.loads(value)
    if isinstance(value, str):
        value = value.split(separator)
    several = value if isinstance(value, list | tuple) else [value]
    names = [str(each) if each in (math.inf, -math.inf) else label_name(each) for each in several]
    return [name.strip() for name in names if name is not None]
