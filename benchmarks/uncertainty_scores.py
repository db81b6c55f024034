"""How much a confidence is worth: to calibrate, to abstain, and to notice inputs of another kind.

Shapes: ``N`` samples, ``m`` classes.
"""

from __future__ import annotations

import torch
from filtune.lightning_modules.scores import ProbabilityScores
from sklearn.metrics import roc_auc_score
from torch import Tensor

COVERAGE = 0.8
"""Share of the samples, the surest, that is answered where abstaining is allowed."""


def calibration(p: Tensor, classes: Tensor) -> dict[str, float]:
    """Accuracy, log loss, Brier score and calibration error of probabilities.

    Args:
        p: (N, m).
        classes: (N,).
    """
    scores = ProbabilityScores()
    scores.update(p, classes)
    found = {name: float(value) for name, value in scores.compute("").items()}
    return {"accuracy": 100 * float((p.argmax(1) == classes).double().mean()), **found}


def selective(confidence: Tensor, correct: Tensor) -> dict[str, float]:
    r"""What abstaining on the least sure is worth.

    ``aurc``, in 0..100, is the error among the k surest, averaged over k = 1..N (Geifman & El-Yaniv 2017); less is
    better. ``accuracy_at_80``, in 0..100, is that of the surest 80 %. Ties are broken by the order of the samples.

    Args:
        confidence: (N,).
        correct: (N,), bool.
    """
    wrong = (~correct[confidence.argsort(descending=True, stable=True)]).double()
    risk = wrong.cumsum(0) / torch.arange(1, len(wrong) + 1, dtype=torch.float64)
    answered = max(1, round(COVERAGE * len(wrong)))
    return {"aurc": 100 * float(risk.mean()), "accuracy_at_80": 100 * float(1 - risk[answered - 1])}


def detection(inside: Tensor, outside: Tensor) -> float:
    """Area under the ROC curve, in 0..100, of telling inputs of another kind by a number that is larger on them.

    Args:
        inside: The number of samples of the data that was learnt, (N,).
        outside: That of the others, (N',).
    """
    truth = torch.cat([torch.zeros(len(inside)), torch.ones(len(outside))])
    return 100 * float(roc_auc_score(truth.numpy(), torch.cat([inside, outside]).double().numpy()))
