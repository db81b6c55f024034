"""What the cost of a filter is held against.

The *floor* is what any exact rule that needs d rows of a Jacobian has to do: one forward pass and one vectorised
backward pass of d rows over the trained parameters, whose result is thrown away. In a batch its rows are shared by the
samples, so that gradients are summed over them: less than any filter needs. The *ordinary floor* makes no use of
vectorisation: one forward pass, and one ordinary backward pass of a batch in which every sample is repeated d times
(the forward pass of that batch is not counted).
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.contestants import Batch, Contestant, each
from benchmarks.models import Case


class Floor(Contestant):
    """One forward pass and one vectorised backward pass of d rows.

    Args:
        case: The model.
        device: Where it runs.
        rows: d.
    """

    def __init__(self, case: Case, device: torch.device, rows: int) -> None:
        super().__init__(case, device)
        self.rows = rows

    def work(self, batch: Batch) -> None:
        """Forward and backward."""
        outputs = self.outputs(batch[0])
        cotangents = torch.randn(self.rows, *outputs.shape, device=self.device)

        def backward(row: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(outputs, self.trained, row, materialize_grads=True)

        if self.rows == 1:
            backward(cotangents[0])
        else:
            torch.func.vmap(backward)(cotangents)


class OrdinaryFloor(Floor):
    """One forward pass, and one ordinary backward pass of every sample d times."""

    def step(self, batch: Batch) -> None:
        """Time both, without the forward pass of the repeated batch."""
        start = self.now()
        self.outputs(batch[0])
        forward = self.now() - start
        outputs = self.outputs(each(batch[0], lambda tensor: tensor.repeat_interleave(self.rows, 0)))
        cotangents = torch.randn_like(outputs)
        start = self.now()
        torch.autograd.grad(outputs, self.trained, cotangents, materialize_grads=True)
        self.seconds.append(forward + self.now() - start)
