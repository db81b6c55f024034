"""Whether data and weights can be had, known before anything is run."""

import pytest
from filtune.experiments import availability
from filtune.experiments.availability import needs
from filtune.experiments.composition import compose, data_options
from filtune.experiments.runs import localise
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError


@pytest.fixture(autouse=True)
def _ask_anew(monkeypatch, tmp_path):
    reachable, ask = availability._reachable, availability._ask_hub
    reachable.cache_clear()
    ask.cache_clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    yield
    reachable.cache_clear()
    ask.cache_clear()


def text(**options):
    return compose(["task/sst2", "backbone/roberta_base", "loko"], options)


def test_what_is_built_in_needs_nothing():
    assert [need.where for need in needs(compose(["task/digits", "backbone/lenet5"]), {})] == ["none needed"] * 2
    random = compose(["task/digits", "backbone/resnet18"], {"model.backbone.pretrained": False})
    assert needs(random, {})[1].where == "none needed"


def test_a_folder_that_is_named_is_here(tmp_path):
    (tmp_path / "glue" / "sst2").mkdir(parents=True)
    (tmp_path / "glue" / "cola").mkdir()
    (tmp_path / "roberta").mkdir()
    folders = {"nyu-mll/glue": str(tmp_path / "glue"), "FacebookAI/roberta-base": str(tmp_path / "roberta")}
    assert [need.where for need in needs(text(), folders)] == ["here", "here"]
    lacking = needs(text(**{"data.name": "qqp"}), folders)[0]
    assert lacking.where == "missing"
    assert lacking.reason == "the folder has cola, sst2 alone; name one that has qqp by --local nyu-mll/glue=FOLDER"


def test_a_measurement_with_a_model_of_its_own_needs_no_weights():
    options = {"measurement.class_path": "filtune.experiments.measurements.TheoremBounds"}
    assert [need.kind for need in needs(compose(["task/digits"], options), {})] == ["data"]


def test_streams_of_a_changing_stream_are_needed_and_found(tmp_path):
    """Each source once, and local folders in place of all hub ids."""
    config = compose(["task/changing_classes", "backbone/lenet5", "loko"])
    config["data"]["init_args"]["streams"] *= 2
    assert [need.name for need in needs(config, {})][:-1] == ["uoft-cs/cifar10"]
    folders = {"uoft-cs/cifar10": str(tmp_path)}
    assert [need.where for need in needs(config, folders)] == ["here", "none needed"]
    local = [options.get("source") for options in data_options(localise(config, folders)["data"])]
    assert local == [None, str(tmp_path), str(tmp_path)]


def test_without_a_network_it_is_said_at_once(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for need in needs(text(), {}):
        assert need.where == "missing"
        assert "the hub cannot be reached" in need.reason
        assert "--local ID=FOLDER" in need.reason


def test_what_was_downloaded_is_here(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "cache" / "models--FacebookAI--roberta-base" / "snapshots" / "abc").mkdir(parents=True)
    assert needs(text(), {})[1].where == "here"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (GatedRepoError, "gated: ask for access"),
        (RepositoryNotFoundError, "the hub has nothing of this name"),
        (ConnectionError, "the hub did not answer (ConnectionError)"),
    ],
)
def test_what_the_hub_refuses_is_told(monkeypatch, error, said):
    def ask(*_, **__):
        raise error.__new__(error)

    monkeypatch.setattr(availability, "_reachable", lambda: True)
    monkeypatch.setattr("huggingface_hub.HfApi.auth_check", ask)
    need = needs(text(), {})[1]
    assert need.where == "missing"
    assert said in need.reason


def test_what_the_hub_has_is_to_be_downloaded(monkeypatch):
    monkeypatch.setattr(availability, "_reachable", lambda: True)
    monkeypatch.setattr("huggingface_hub.HfApi.auth_check", lambda *_, **__: None)
    assert [need.where for need in needs(text(), {})] == ["download", "download"]
