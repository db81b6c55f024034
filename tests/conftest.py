"""Fixtures of several folders of tests: real data where it is available, and a tiny random text model elsewhere."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from transformers import BertTokenizerFast

# the same examples every time: what fails here fails everywhere, and a slow machine is no error
EXAMPLES = int(os.environ.get("FILTUNE_EXAMPLES", 25))  # of a property that does not say how many
hypothesis.settings.register_profile("same", deadline=None, derandomize=True, max_examples=EXAMPLES)
hypothesis.settings.load_profile("same")

# a test survives no power failure: a run of 24 samples would wait 14 times for the disk, a fifth of a second in all
os.fsync = lambda descriptor: None  # type: ignore[assignment]

# one core a process of the test run; said before torch is imported
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup, and some tests send it


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave out what is imported when garbage is collected: torch and the like are 600,000 objects, and no garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


SHARED = Path(os.environ.get("FILTUNE_DATA", Path(__file__).resolve().parents[2] / "shared"))
WORDS = "good bad film plot dull bright actor story love hate great poor a the is was not very and of".split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
"""Of a tiny transformer."""


@dataclass(frozen=True)
class Task:
    """A task as a data module would describe it."""

    name: str = "toy"
    kind: str = "classification"
    outputs: int = 2
    modality: str = "text"
    image_shape: tuple[int, int, int] | None = None
    metrics: tuple[str, ...] = ("accuracy",)
    target_scaling: bool = False


def _shared(*parts: str) -> Path:
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"real data not available: {'/'.join(parts)} (set FILTUNE_DATA to the folder that holds it)")
    return path


@pytest.fixture(scope="session")
def tiny_glue() -> Path:
    """A small part of GLUE in the hub's layout."""
    return _shared("data-tiny", "nyu-mll", "glue")


@pytest.fixture(scope="session")
def tiny_mnist() -> Path:
    """A small part of MNIST in the hub's layout."""
    return _shared("data-tiny", "ylecun", "mnist")


@pytest.fixture(scope="session")
def glue() -> Path:
    """GLUE in the hub's layout."""
    return _shared("data", "nyu-mll", "glue")


@pytest.fixture(scope="session")
def mnist() -> Path:
    """MNIST in the hub's layout."""
    return _shared("data", "ylecun", "mnist")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Pre-trained MiniLM."""
    return _shared("models", "minilm-l6-v2")


def write_tokenizer(folder: Path) -> BertTokenizerFast:
    """A word-level tokenizer in the hub's layout."""
    from transformers import BertTokenizerFast

    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer BERT with a word-level vocabulary, in the hub's layout."""
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("tiny-bert")
    write_tokenizer(folder)
    config = BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=64, **SIZES)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A function that runs a command which must be refused in one line, and returns the line."""
    from filtune.cli import main

    def command(*args: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(list(args))
        printed = capsys.readouterr().err
        assert stopped.value.code == 2, printed
        assert "Traceback" not in printed
        (line,) = [text for text in printed.splitlines() if text.startswith("filtune: error: ")]
        return line

    return command
