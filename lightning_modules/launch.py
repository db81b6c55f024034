"""Several processes of one run: the first opens its folder, one reports an error, each leaves the process group."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.distributed.distributed_c10d import _get_default_store  # torch has no public way to the store


def is_first() -> bool:
    """Return whether this process is the first of its run, or the only one; known before there is a trainer."""
    return rank_zero_only.rank == 0 and int(os.environ.get("NODE_RANK", 0)) == 0


def is_first_to_report() -> bool:
    """Return whether this process is to report an error that stops all of them: the first that asks.

    Before the process group exists, all processes fail alike, and the first reports.
    """
    if not dist.is_initialized():
        return is_first() or "RANK" not in os.environ
    try:
        return _get_default_store().add("filtune/reported", 1) == 1
    except RuntimeError:  # the store ended with the first process, which had reported
        return False


@contextmanager
def refused_together(kind: type[Exception] = ValueError) -> Iterator[None]:
    """Stop all processes of a run where a block that all of them run is refused by one of them.

    What is refused may be of one machine alone: its copy of the data, its memory, a folder's lock. The others would
    wait for that process until the time limit of the group. There must be no collective within the block.

    Args:
        kind: The error on the other processes.

    Raises:
        Exception: The block's own error, or ``kind`` with the message of the first process that has one.
    """
    own: Exception | None = None
    try:
        yield
    except Exception as error:
        own = error
    if dist.is_initialized() and dist.get_world_size() > 1:
        messages: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(messages, None if own is None else str(own) or type(own).__name__)
        others = next((message for message in messages if message), None)
        if own is None and others is not None:
            own = kind(others)
    if own is not None:
        raise own


def other_process_lost(error: BaseException) -> str | None:
    """Return a message if the error is that another process has ended without reporting."""
    if not dist.is_initialized() or not re.search("Connection (closed|reset)", str(error)):
        return None
    return (
        "another process of the run has ended, killed or out of memory; the same command with --ckpt_path last resumes "
        "from the last checkpoint"
    )


def leave() -> None:
    """Destroy the process group, if there is one; called at the end of every process, whatever its status.

    Threads of Gloo hold tensors until then. If one frees its last tensor during the interpreter's shutdown, it aborts
    the process, and a completed run ends as if it had failed. Lightning handles this for NCCL only.
    """
    if dist.is_initialized():
        dist.destroy_process_group()


def _is_of_a_part(record: logging.LogRecord) -> bool:
    """Return whether a notice is a warning, or comes from a callback or profiler: of those, the user asked for it."""
    return record.levelno > logging.INFO or Path(record.pathname).parent.name in ("callbacks", "profilers")


def _one_line(message: Warning | str, *_: object, **__: object) -> str:
    """Return a warning without the place in the code that it comes from."""
    return f"filtune: warning: {' '.join(str(message).split())}\n"


def quiet() -> None:
    """Silence the notices of libraries about what is intended."""
    import transformers

    transformers.logging.set_verbosity_error()  # a fresh head is intended
    transformers.logging.disable_progress_bar()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for name in ("callbacks", "profilers", "utilities.rank_zero"):
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.INFO)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_of_a_part)
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.utilities.distributed").setLevel(logging.WARNING)
    if not is_first():
        logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.formatwarning = _one_line
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*length of `list` across ranks is zero.*")  # the data line says so
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")  # it is intended
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # between two libraries
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # the metrics have been synchronised
    warnings.filterwarnings("ignore", message=".*will save all targets and predictions in the buffer.*")
    warnings.filterwarnings("ignore", message=".*manual optimization and every_n_train_steps.*")  # after a step it is
    warnings.filterwarnings("ignore", message=".*implemented the batching rule.*")  # torch's, of rows of a Jacobian
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")  # a run of one process needs none
