"""Similar names are found in one place, whichever folder asks for them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from filtune.optimizers.torch_classes import check_rule_arguments, import_rule
from torch.optim import NAdam

from filtune.suggestions import did_you_mean, nearest, suggest
from tests.architecture import modules


def test_names_are_compared_in_one_place_alone() -> None:
    found = {
        module.name for module in modules() if re.search(r"difflib|get_close_matches|did you mean \{", module.text)
    }
    assert found == {"filtune.suggestions"}


def test_a_phrase_without_names_is_empty() -> None:
    assert did_you_mean([]) == ""
    assert did_you_mean(["a", "b"]) == "did you mean a or b?"
    assert nearest("", []) == []


def test_many_names_are_listed_only_where_nothing_else_is_said() -> None:
    many = [f"{number:06}" for number in range(50)]
    assert suggest("zzz", many, "see the help") == "see the help"
    assert suggest("zzz", many[:2], "see the help") == "there are 000000, 000001"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torch.optim.adamax", "; did you mean torch.optim.Adamax"),
        ("torch.optim.Zzzzzz", "torch.optim has no class Zzzzzz"),
    ],
)
def test_a_rule_of_torch_in_another_case_is_suggested(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        import_rule(name)
    assert not str(error.value).endswith("; ")


def test_an_abbreviated_argument_of_a_rule_is_suggested() -> None:
    with pytest.raises(ValueError, match="no argument 'weight_decays'; did you mean weight_decay.* it has lr"):
        check_rule_arguments("torch.optim.NAdam", NAdam, {"weight_decays": 1})


def test_a_folder_in_another_case_is_suggested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from filtune.datamodules import DataError
    from filtune.datamodules.source import read_source

    (tmp_path / "Photos").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"dataset folder not found: ./PHOTOS; did you mean Photos\?"):
        read_source("./PHOTOS")
