"""Arrows between folders go one way, private names stay private, and a name has one meaning."""

from __future__ import annotations

import sys

import pytest

from tests.architecture import (
    FACE,
    PARTS,
    circles,
    folder_of,
    internal_imports,
    modules,
    private_access,
    shared_names,
)

BELOW = {
    "optimizers": set(),
    "datamodules": set(),
    "lightning_modules": {"optimizers", "datamodules"},
    "experiments": {"lightning_modules", "datamodules", "optimizers"},
    "exports": {"experiments", "lightning_modules", "datamodules", "optimizers"},
    "reports": {"exports", "experiments", "lightning_modules", "datamodules", "optimizers"},
    "live": {"exports", "experiments", "lightning_modules", "datamodules", "optimizers"},
    FACE: set(PARTS),
    "benchmarks": {*PARTS, FACE},
}
"""What the files of a folder may import of the others."""

ABOVE_THE_FACE = {"experiments", "exports", "reports", "live", "benchmarks"}
"""Folders that may ask ``filtune`` itself for a public name: it hands out those of the three folders below them."""

LABELS = ("filtune.datamodules.labels", "filtune.optimizers.likelihoods")
"""The one arrow beside these: how a column becomes targets is the likelihood's to say."""

BELOW_ALL = ("filtune.suggestions",)
"""Files that every folder may import, for they need the standard library alone."""

CALLERS_OF_THE_COMMAND_LINE = {
    "filtune.__main__",
    "filtune.experiments.worker",  # each run of a study is a process of its own: the command line, started anew
}

FAMILIES = {"kalman": {"likelihoods"}, "kfac": {"likelihoods"}, "likelihoods": set()}
"""Folders of optimizers/, and what each may import of the others."""

LONGEST = 400

SHARED = {
    "main": "the entry of each command and of each benchmark",
}
"""Public names that several files may define, with the reason."""


def listed(found: list[str]) -> str:
    return "\n" + "\n".join(found)


def test_arrows_between_folders_go_down() -> None:
    wrong = []
    for edge in internal_imports():
        source, target = folder_of(edge.source), folder_of(edge.target)
        labels = edge.source == LABELS[0] and f"{edge.target}.".startswith(f"{LABELS[1]}.")
        command_line = edge.source in CALLERS_OF_THE_COMMAND_LINE and edge.target == "filtune.cli"
        face = edge.target in BELOW_ALL or (edge.target == FACE and source in ABOVE_THE_FACE)
        if source != target and target not in BELOW[source] and not (labels or command_line or face):
            wrong.append(str(edge))
    assert not wrong, listed(wrong)


def test_what_every_folder_may_import_needs_the_standard_library_alone() -> None:
    edges = [edge for module in modules() if module.name in BELOW_ALL for edge in module.imports()]
    assert edges
    assert not [str(edge) for edge in edges if edge.target.partition(".")[0] not in sys.stdlib_module_names]


def test_the_command_line_is_imported_by_its_callers_alone() -> None:
    wrong = [
        str(edge) for edge in internal_imports() if edge.target == "filtune.cli" and folder_of(edge.source) != FACE
    ]
    # the files of filtune/ beside it are its own parts
    wrong = [edge for edge in wrong if edge.partition(":")[0] not in CALLERS_OF_THE_COMMAND_LINE]
    assert not wrong, listed(wrong)


def test_optimizers_import_torch_alone() -> None:
    allowed = {"torch", "typing_extensions", "filtune", *sys.stdlib_module_names}
    edges = [edge for module in modules() if module.folder == "optimizers" for edge in module.imports()]
    wrong = [str(edge) for edge in edges if edge.target.partition(".")[0] not in allowed]
    assert not wrong, listed(wrong)


def test_families_of_optimizers_stay_apart() -> None:
    def family(name: str) -> str:
        parts = name.split(".")
        return parts[2] if len(parts) > 2 and parts[2] in FAMILIES else ""

    wrong = []
    for edge in internal_imports():
        source, target = family(edge.source), family(edge.target)
        is_basic = folder_of(edge.source) == "optimizers" and not source
        # the folder's own face names what is in the families
        is_face = edge.source == "filtune.optimizers"
        if folder_of(edge.source) != "optimizers" or not target or source == target or is_face:
            continue
        if is_basic and target == "likelihoods":
            continue  # a rule's closure returns an observation
        if is_basic or target not in FAMILIES[source]:
            wrong.append(str(edge))
    assert not wrong, listed(wrong)


def test_no_file_imports_itself_by_way_of_others() -> None:
    assert not circles(), listed([" <-> ".join(circle) for circle in circles()])


def test_imports_are_relative_inside_a_folder_and_absolute_across() -> None:
    wrong = [
        str(edge)
        for edge in internal_imports()
        if folder_of(edge.source) in PARTS and edge.is_relative != (folder_of(edge.source) == folder_of(edge.target))
    ]
    assert not wrong, listed(wrong)


def test_private_names_are_not_imported() -> None:
    wrong = [
        str(edge)
        for edge in internal_imports()
        if (edge.name or edge.target.rpartition(".")[2]).startswith("_")
        and not (edge.name or "").endswith("__")
        and not edge.target.endswith("__")
    ]
    assert not wrong, listed(wrong)


def test_private_attributes_are_not_used_from_outside() -> None:
    """Of other packages neither, unless a comment on the line or above it says why."""
    assert not (wrong := list(private_access())), listed(wrong)


def test_no_file_is_too_long() -> None:
    lengths = {module.name: module.text.count("\n") for module in modules()}
    wrong = [f"{name}: {length} lines" for name, length in lengths.items() if length > LONGEST]
    assert not wrong, listed(wrong)


def test_a_public_name_is_defined_once() -> None:
    wrong = [f"{name}: {', '.join(files)}" for name, files in shared_names().items() if name not in SHARED]
    assert not wrong, listed(wrong)


@pytest.mark.parametrize("name", SHARED)
def test_the_names_that_may_be_shared_are(name: str) -> None:
    assert name in shared_names()
