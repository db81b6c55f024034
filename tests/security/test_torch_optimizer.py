"""The class that TorchOptimizer wraps is imported for a run's files only if it is of a known package, or named."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

import pytest
from filtune.exports.restore import restore
from filtune.lightning_modules.checkpoints import compare_configs
from filtune.lightning_modules.trust import ForeignClassError
from filtune.optimizers import TorchOptimizer, torch_classes
from torch import nn

from filtune.cli import main
from tests.security.conftest import Refused, Stranger

OWN = "import torch\n\n\nclass Mine(torch.optim.SGD):\n    pass\n"


@pytest.fixture(autouse=True)
def _nothing_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test allows is forgotten after it."""
    monkeypatch.setattr(torch_classes, "_allowed", set())


def name_class(stranger: Stranger, name: Any) -> None:
    """Let a stranger's run have been trained with a class."""
    options = {"name": name, "arguments": {"lr": 0.1}, "fallback_lr": 1e-3}
    stranger.config["optimizer"] = {"class_path": "filtune.TorchOptimizer", "init_args": options}
    stranger.write()


NAMES = ["evil_module.Plain", "evil_module.act", "evil_module", "os.system", "subprocess.Popen", ["evil_module.Plain"]]


@pytest.mark.parametrize("name", NAMES, ids=str)
def test_a_prediction_imports_no_class_from_elsewhere(name: Any, stranger: Stranger, evil: str) -> None:
    name_class(stranger, name)
    with pytest.raises(ValueError, match=r"--own_class|must be a class path"):
        restore(stranger.checkpoint).optimizer()


@pytest.mark.parametrize("name", NAMES[:4])
def test_a_validation_imports_no_class_from_elsewhere(
    name: str, stranger: Stranger, evil: str, refused: Refused
) -> None:
    name_class(stranger, name)
    said = refused(*stranger.commands()["validate"])
    assert f"optimizer.name: {name} is not a class of filtune" in said


def test_an_export_needs_no_optimizer(stranger: Stranger, evil: str) -> None:
    name_class(stranger, "evil_module.Plain")
    main(stranger.commands()["export"])


def test_a_state_that_names_a_class_imports_nothing(evil: str) -> None:
    optimizer = TorchOptimizer(nn.Linear(2, 2).parameters())
    saved = optimizer.state_dict()
    saved["settings"] = {**saved["settings"], "name": "evil_module.Plain"}
    saved["attributes"] = [{"name": "evil_module.Plain", "step": "evil_module.act"}]
    with pytest.raises(ValueError, match="saved with name evil_module"):
        optimizer.load_state_dict(saved)
    del saved["settings"]
    optimizer.load_state_dict(saved)
    assert callable(optimizer.step)


def test_the_configuration_in_a_checkpoint_is_compared_without_importing(stranger: Stranger, evil: str) -> None:
    name_class(stranger, "torch.optim.NAdam")
    own = {**stranger.config}
    name_class(stranger, "evil_module.Plain")
    with pytest.raises(ValueError, match=r"optimizer\.init_args\.name"):
        compare_configs({**stranger.config, "optimizer": evil_optimizer()}, own)


def evil_optimizer() -> dict[str, Any]:
    """The section of a configuration."""
    return {"class_path": "filtune.TorchOptimizer", "init_args": {"name": "evil_module.Plain"}}


def test_an_argument_that_names_a_class_is_refused(stranger: Stranger, evil: str, refused: Refused) -> None:
    name_class(stranger, "torch.optim.NAdam")
    stranger.config["optimizer"]["init_args"]["arguments"] = {"lr": {"class_path": "evil_module.Plain"}}
    stranger.write()
    refused(*stranger.commands()["validate"])
    with pytest.raises(ForeignClassError):
        restore(stranger.checkpoint).optimizer()


def test_the_module_of_a_known_package_alone_is_imported(evil: str) -> None:
    for name in ("pytorch_optimizer.evil_module.Plain", "torch.optim.evil_module.Plain", "ivon.evil_module.Plain"):
        with pytest.raises(ValueError, match="nothing else is imported"):
            TorchOptimizer(nn.Linear(2, 2).parameters(), name)


def test_ones_own_class_in_fit_and_named_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rules.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--data.max_samples=6", "--data.max_val_samples=6", "--trainer.enable_progress_bar=false"]
    named = ["--optimizer=TorchOptimizer", "--optimizer.name=own_rules.Mine", "--optimizer.arguments.lr=0.01"]
    with contextlib.redirect_stdout(io.StringIO()):
        main(["fit", "--config=trainer/cpu", "--config=task/digits", "--config=backbone/lenet5", *named, *options,
              f"--run.root={tmp_path / 'runs'}"])  # fmt: skip
    (config,) = tmp_path.rglob("config.yaml")
    monkeypatch.setattr(torch_classes, "_allowed", set())
    sys.modules.pop("own_rules", None)
    with pytest.raises(ForeignClassError, match="--own_class own_rules.Mine"):
        restore(config.parent).optimizer()
    assert "own_rules" not in sys.modules
    assert restore(config.parent, own=["own_rules.Mine"]).optimizer().name == "own_rules.Mine"
