"""The kind of task and its classes are those the labels declare or imply, unless they are given."""

from __future__ import annotations

from typing import Any

import datasets
import pytest
import torch
from datasets import ClassLabel, Dataset
from filtune.datamodules import DataError, TextDataModule
from filtune.datamodules.labels import LabelCodec
from filtune.optimizers.likelihoods.tasks import Coding


def encoded(values: list[Any], names: list[str] | None = None, **given: Any) -> tuple[LabelCodec, list]:
    table = Dataset.from_dict({"label": values})
    if names is not None:
        table = table.cast_column("label", ClassLabel(names=names))
    codec = LabelCodec.infer(table, "label", **given)
    targets, bad_rows = codec.encode(table)
    assert not bad_rows
    assert targets.dtype == (torch.int64 if codec.kind == "classification" else torch.float32)
    return codec, targets.tolist()


@pytest.mark.parametrize(
    ("values", "classes", "targets"),
    [
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
        ([10, 9, -1], ("-1", "9", "10"), [2, 1, 0]),
        ([True, False], ("False", "True"), [1, 0]),
    ],
    ids=["strings", "integers", "booleans"],
)
def test_strings_integers_and_booleans_are_classes(values: list, classes: tuple, targets: list) -> None:
    codec, found = encoded(values)
    assert (codec.kind, codec.coding.classes, found) == ("classification", classes, targets)


def test_declared_classes_keep_their_names_and_order() -> None:
    codec, targets = encoded([1, 0], names=["sad", "glad"])
    assert (codec.coding.classes, targets) == (("sad", "glad"), [1, 0])


def test_floats_are_values() -> None:
    codec, targets = encoded([0.5, 3.0])
    assert (codec.kind, codec.coding.classes, targets) == ("regression", (), [0.5, 3.0])


@pytest.mark.parametrize("values", [[4, 2], ["4", "2"], [True, False]], ids=["integers", "strings", "booleans"])
def test_any_numbers_may_be_values(values: list) -> None:
    codec, targets = encoded(values, task="regression")
    assert (codec.kind, targets) == ("regression", [float(value) for value in values])


def test_floats_may_be_classes() -> None:
    assert encoded([2.0, 10.0, 2.5], task="classification")[0].coding.classes == ("2", "2.5", "10")
    assert encoded([1.0, 0.0], classes=["1", "0"]) == (
        LabelCodec("classification", Coding(("1", "0")), "label"),
        [0, 1],
    )


def test_given_classes_set_the_order_of_the_outputs() -> None:
    assert encoded([0, 1], names=["no", "yes"], classes=["yes", "no"])[1] == [1, 0]
    assert encoded(["x", "y"], classes=["z", "y", "x"])[1] == [2, 1]


@pytest.mark.parametrize(
    ("values", "names", "classes", "targets"),
    [
        (["b;a", "", "c"], None, ("a", "b", "c"), [[1, 1, 0], [0, 0, 0], [0, 0, 1]]),
        ([["b", "a"], [], ["c"]], None, ("a", "b", "c"), [[1, 1, 0], [0, 0, 0], [0, 0, 1]]),
        ([[1], [0, 1], []], ["joy", "fear"], ("joy", "fear"), [[0, 1], [1, 1], [0, 0]]),
    ],
    ids=["text", "lists", "declared"],
)
def test_a_row_may_have_several_labels(values: list, names: list | None, classes: tuple, targets: list) -> None:
    table = Dataset.from_dict({"label": values})
    if names is not None:
        table = table.cast_column("label", datasets.List(ClassLabel(names=names)))
    codec = LabelCodec.infer(table, "label", "multilabel")
    found, bad_rows = codec.encode(table)
    assert (codec.kind, codec.coding.classes, codec.outputs, bad_rows) == ("multilabel", classes, len(classes), [])
    assert found.tolist() == targets
    assert found.dtype == torch.float32


def test_counts_are_numbers_and_bad_ones_are_named(write: Any) -> None:
    source = write("a.csv", "text,label\na,3\nb,-1\nc,0\nd,\n")
    with pytest.raises(DataError, match=r"row 1 \(from 0\), column 'label': negative count: -1 \(and 1 more bad row\)"):
        TextDataModule(source, ["text"], task="count").setup()
    module = TextDataModule(source, ["text"], task="count", on_bad_row="skip", val_fraction=0)
    with pytest.warns(UserWarning, match=r"bad rows left out: 2 \(1 missing label, 1 negative count\)"):
        module.setup()
    assert (module.task.kind, module.task.outputs, module.task.metrics) == ("count", 1, ("deviance", "mae"))
    assert sorted(batch["label"].item() for batch in module.train_dataloader()) == [0, 3]


def test_an_unknown_kind_of_task_is_refused_at_once(reviews: str) -> None:
    with pytest.raises(DataError, match="--data.task: there is no task of the kind 'ranking'; choose from"):
        TextDataModule(reviews, ["text"], task="ranking")


@pytest.mark.parametrize(
    ("values", "given", "message"),
    [
        (["a", "a"], {}, "two different classes at least, column 'label' has a"),
        ([None, None], {}, "column 'label' has none"),
        ([1, 2], {"classes": ["1", "1"]}, "two different classes"),
        ([1.0, 2.0], {"classes": ["a", "b"], "task": "regression"}, "--data.classes: a regression task has none"),
        ([[1], [2]], {}, "column 'label' holds neither numbers nor strings alone but List(Value('int64')); set --data"),
        ([{"a": 1}], {}, "column 'label' holds neither numbers nor strings alone"),
        (["a", "a;"], {"task": "multilabel"}, "two different labels at least, column 'label' has a"),
        ([1], {"task": "count", "classes": ["a", "b"]}, "--data.classes: a count task has none"),
    ],
)
def test_labels_that_make_no_task(values: list, given: dict, message: str) -> None:
    with pytest.raises(DataError) as error:
        LabelCodec.infer(Dataset.from_dict({"label": values}), "label", **given)
    assert message in str(error.value)


def test_the_task_tells_what_the_labels_are(write: Any) -> None:
    module = TextDataModule(write("my scores!.csv", "text,label\na,0.5\nb,1.5\nc,2\n"), ["text"], val_fraction=0)
    module.setup()
    task = module.task
    assert (task.name, task.kind, task.outputs, task.classes) == ("my_scores_", "regression", 1, ())
    assert (task.modality, task.image_shape, task.metrics) == ("text", None, ("pearson", "spearman"))
    assert module.val_dataloader() == []


@pytest.mark.parametrize(
    ("values", "task", "scaled"),
    [
        ([0.0, 2.5, 5.0, 3.2], "regression", False),  # similarities, as in STS-B
        ([2.1e5, 1.4e5, 3.3e5], "regression", True),  # prices
        ([1e-4, 2e-4, 5e-4], "regression", True),
        ([1000.5, 1001.0, 999.0], "regression", True),  # far from zero
        ([3.0, 3.0], "regression", False),
        ([0, 3, 1], "count", True),
        ([0, 3, 1], "classification", False),
    ],
)
def test_numbers_far_from_one_are_learned_in_running_units(values: list, task: str, scaled: bool) -> None:
    codec, targets = encoded(values, task=task)
    assert codec.scales_targets(torch.tensor(targets), "auto") is scaled
    assert codec.scales_targets(torch.tensor(targets), "running")
    assert not codec.scales_targets(torch.tensor(targets), "none")


def test_an_unknown_scaling_is_refused(write: Any) -> None:
    with pytest.raises(DataError, match=r"--data.target_scaling: must be one of auto, none, running; got 'x'"):
        TextDataModule(write("scores.csv", "text,label\na,0.5\n"), ["text"], target_scaling="x")


def test_metrics_are_those_asked_for_if_the_task_has_them(reviews: str) -> None:
    module = TextDataModule(reviews, ["text"], metrics=["matthews", "accuracy"], task_name="mine")
    module.setup()
    assert (module.task.name, module.task.metrics) == ("mine", ("matthews", "accuracy"))
    with pytest.raises(DataError, match="a classification task has no 'pearson'; choose from accuracy, f1, matthews"):
        TextDataModule(reviews, ["text"], metrics=["pearson"]).setup()
