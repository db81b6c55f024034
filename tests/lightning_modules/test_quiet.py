"""Notices of libraries that are no news to the user are not shown beside what filtune says in one line."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from filtune.lightning_modules.launch import quiet
from lightning.fabric.plugins.environments import SLURMEnvironment


def test_a_cluster_s_srun_on_the_path_is_not_recommended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        SLURMEnvironment.detect()
        assert len(shown) == 1
        quiet()
        SLURMEnvironment.detect()
    assert len(shown) == 1
