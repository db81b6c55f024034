"""What the README and the docs tell a newcomer to do can be done."""

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


def test_the_loop_of_the_readme_runs() -> None:
    """The lines shown under "The optimizer in your own loop", on a small model."""
    import torch

    code = re.search(r"```python\n(from filtune import.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
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
