"""The README is true: its commands, its badges, its table; and the code of the docs runs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_first_screen_has_two_setup_commands() -> None:
    first = "\n".join((ROOT / "README.md").read_text().splitlines()[:20])
    blocks = re.findall(r"```bash\n(.*?)\n```", first, flags=re.DOTALL)
    assert blocks == [
        "pip install -e . && filtune fit --config configs/quickstart.yaml",
        "pip install -e '.[test]' && pytest",
    ]


def test_first_screen_has_the_figure_and_one_table() -> None:
    first = (ROOT / "README.md").read_text().partition("\n## ")[0]
    assert len(re.findall(r"^\|---", first, flags=re.MULTILINE)) == 1
    assert "](docs/results/pretrained_pretrained_images_panel.png)" in first
    assert "**For you**" in first
    assert "**Not for you**" in first


def test_figures_of_the_readme_are_those_of_the_results() -> None:
    pages = ["docs/results.md", "docs/results/pretrained.md", "docs/results/win.md"]
    results = "".join((ROOT / page).read_text() for page in pages).replace("\u00a0", " ")
    found = re.findall(r"\d+\.\d+ ± \d+\.\d+", (ROOT / "README.md").read_text())
    assert len(found) > 20
    assert [figure for figure in found if figure not in results] == []


def test_badges_are_true() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    low, high = re.findall(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', project)[0]
    assert f">3.{low} to 3.{int(high) - 1}<" in (ROOT / "docs/site/badge_python.svg").read_text()
    assert 'license = "MIT"' in project
    assert ">MIT<" in (ROOT / "docs/site/badge_licence.svg").read_text()


def test_the_loop_of_the_readme_runs() -> None:
    """The lines shown under "The optimizer in your own loop", on a small model."""
    import torch

    code = re.search(
        r"```python\n(from filtune import Categorical, LoKO.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL
    )
    assert code
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    before = model.weight.detach().clone()
    stream = [(torch.randn(1, 4), torch.tensor([i % 3])) for i in range(5)]
    scope: dict = {"model": model, "stream": stream}
    exec(code[1], scope)
    assert scope["prediction"].shape == (1, 3)
    assert not torch.equal(model.weight, before)


def test_the_example_optimizer_of_the_docs_works() -> None:
    import torch
    from filtune.optimizers import Categorical

    code = re.search(
        r"```python\n(# optimizers/rmsprop.*?)```", (ROOT / "docs/own_optimizer.md").read_text(), re.DOTALL
    )
    assert code
    scope: dict = {}
    exec(code[1], scope)
    model = torch.nn.Linear(4, 3)
    optimizer = scope["RMSprop"](model.parameters(), lr=0.1)
    before = model.weight.detach().clone()
    optimizer.step(lambda: Categorical(model(torch.ones(1, 4))).observe(torch.tensor([1])))
    assert not torch.equal(model.weight, before)
