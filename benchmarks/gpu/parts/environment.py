"""The device, the drivers and the libraries."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import torch

from benchmarks.gpu.record import Record

SECONDS = 10
ALONE = False
SMOKE = True

LIBRARIES = (
    "torch", "lightning", "transformers", "peft", "timm", "torchvision", "torchmetrics", "datasets", "jsonargparse",
    "pyarrow", "pandas", "numpy", "scipy", "triton", "bitsandbytes", "tensorboard", "huggingface-hub", "tokenizers",
)  # fmt: skip


def run_environment(record: Record) -> None:
    """Record the environment."""
    record.attempt("machine", machine)
    record.attempt("libraries", lambda: {name: version(name) for name in LIBRARIES})
    if record.cuda:
        record.attempt("device", describe_device)
        record.attempt("ceilings", ceilings, record.device)


def machine() -> dict[str, Any]:
    """Return the machine and its Python."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def version(name: str) -> str | None:
    """Return the version of a library, None where it is absent."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def describe_device() -> dict[str, Any]:
    """Return the CUDA device and the settings that decide on its arithmetic."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32_convolution": torch.backends.cudnn.allow_tf32,
        "cudnn": torch.backends.cudnn.version(),
        "preferred_linalg": str(torch.backends.cuda.preferred_linalg_library()),
        "nccl": torch.cuda.nccl.version(),
    }


def ceilings(device: torch.device) -> dict[str, float]:
    """Return the copy bandwidth, the time of an empty launch, and those of the small operations of a filter."""
    from torch.utils.benchmark import Timer

    def median(statement: str, **names: Any) -> float:
        timer = Timer(statement, globals={"torch": torch, **names})
        timer.timeit(5)
        return timer.blocked_autorange(min_run_time=0.1).median

    x = torch.randn(1 << 28, device=device)
    y, small = torch.empty_like(x), torch.randn(1, device=device)
    matrix = torch.eye(60, dtype=torch.float64, device=device) * 2
    ladder, tiny = matrix.expand(4, 60, 60).contiguous(), torch.eye(1, dtype=torch.float64, device=device)
    found = {
        "copy_gb_per_second": 2 * x.numel() * 4 / 1e9 / median("y.copy_(x)", x=x, y=y),
        "launch_seconds": median("x.add_(1)", x=small),
    }
    for name, statement in {
        "cholesky_ex": "torch.linalg.cholesky_ex(A)",
        "eigh": "torch.linalg.eigh(A)",
        "qr": "torch.linalg.qr(A)",
        "solve_triangular": "torch.linalg.solve_triangular(A, A, upper=False)",
    }.items():
        for size, A in {"1": tiny, "60": matrix, "4 x 60": ladder}.items():
            found[f"{name} {size} seconds"] = median(statement, A=A)
    return found
