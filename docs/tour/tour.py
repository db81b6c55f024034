# %% [markdown]
# # A tour on handwritten digits
#
# This tour trains a filter on handwritten digits, one at a time: first in a training loop, then from the command line.
# It then shows the variances of the parameters, how a filter saturates and how to prevent it, and the uncertainty of a
# prediction for unfamiliar inputs.
#
# Run `python docs/tour/tour.py`, its cells in an editor, or the notebook `docs/tour/tour.ipynb`. It takes half a minute
# on one core, needs no network, prints its results and writes `tour.png`.

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from filtune import AdamW, BackboneConfig, Categorical, DigitsDataModule, LoKO, build_backbone, cli

torch.manual_seed(0)
data = DigitsDataModule(max_samples=400)
data.setup()
stream = list(data.train_dataloader())
print(f"a stream of {len(stream)} digits, {tuple(stream[0]['image'].shape)} each, {data.task.outputs} classes")

# %% [markdown]
# ## A training loop
#
# `step` takes a closure, as torch's LBFGS does. The closure returns an observation: the likelihood of the outputs,
# bound to the target. `step` returns the observation of before the update, so that its mean is a prequential
# prediction.
#
# LoKO observes logits here (`loko_logits`), the faster of its two observations for a network from scratch.


# %%
def learn(make, samples):
    """Learn from a stream; return the model, the optimizer, the hits, and the mean variances at every step."""
    torch.manual_seed(0)
    model = build_backbone(BackboneConfig(name="lenet5", pretrained=False), data.task)
    optimizer = make(model).attach(model)
    hits, variances = [], []
    for sample in samples:
        pixels, label = model.preprocess(sample), sample["label"]
        observed = optimizer.step(lambda pixels=pixels, label=label: Categorical(model(pixels)).observe(label))
        hits.append(float(observed.likelihood.mean().argmax() == label))
        if isinstance(optimizer, LoKO):
            variances.append([float(part.mean()) for part in optimizer.variance()])
    return model, optimizer, torch.tensor(hits), torch.tensor(variances)


model, loko, hits, variances = learn(lambda m: LoKO(m.parameters(), p0=0.2, observation="logits"), stream)
_, _, adamw_hits, _ = learn(lambda m: AdamW(m.parameters(), lr=1e-3), stream)
for name, found in (("LoKO", hits), ("AdamW 1e-3", adamw_hits)):
    print(f"{name}: {100 * found.mean():.1f} % predicted before learning, {found[-100:].sum():.0f} of the last 100")

# %% [markdown]
# ## The same from the command line
#
# `filtune fit` adds the trainer, the log, checkpoints and the comparison with baselines. The arguments are those of a
# shell.

# %%
with TemporaryDirectory() as folder:
    line = f"fit --config quickstart --data.max_samples 100 --trainer.enable_progress_bar false --run.root {folder}"
    cli.main(line.split())
    for config in sorted(Path(folder).rglob("config.yaml")):
        left = ", ".join(sorted(path.name for path in config.parent.iterdir()))
        print(f"{config.parent.relative_to(folder)}: {left}")

# %% [markdown]
# ## The variances of the parameters
#
# Each parameter has a variance. The prior is between 0 and 0.2, 0.1 on average. A variance falls as samples carry
# information about its parameter: fastest where few parameters have a large effect, such as biases.

# %%
names = [name.removeprefix("model.") for name, _ in model.named_parameters()]
for name, before, after in zip(names, variances[0], variances[-1], strict=True):
    print(f"{name:16} mean variance {before:.4f} after the first digit, {after:.4f} after {len(variances)}")

# %% [markdown]
# ## Saturation, and how to prevent it
#
# With observed probabilities and an estimated noise, as in the paper, a filter that observes one label for a long time
# becomes certain: residual, Jacobian and noise go to zero together. A contradicting label then changes nothing.
# Softmax noise prevents this.


# %%
def contradict(noise, repetitions=500, most=100):
    """Show one digit with one label for long, then with another; return the steps until the prediction changes."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 2)
    optimizer = LoKO(linear.parameters(), noise=noise)
    pixels = stream[0]["image"].flatten(1) / 255
    for _ in range(repetitions):
        optimizer.step(lambda: Categorical(linear(pixels)).observe(torch.tensor([0])))
    print(f"{noise}: {optimizer.diagnose() or 'no advice'}")
    for step in range(1, most + 1):
        optimizer.step(lambda: Categorical(linear(pixels)).observe(torch.tensor([1])))
        if int(linear(pixels).argmax()) == 1:
            return step
    return None


changed = {noise: contradict(noise) for noise in ("ema-2", "softmax")}
for noise, steps in changed.items():
    print(f"{noise}: " + (f"changed after {steps} contradictions" if steps else "unchanged after 100 contradictions"))

# %% [markdown]
# ## A prediction with its uncertainty
#
# To first order the outputs have the covariance HPH', where H is their Jacobian. So every score has a standard
# deviation. With a linear model it is small for unseen digits and large for digits with shuffled pixels: those have
# bright pixels that are dark in every digit, and the weights of these pixels still have their prior variance.

# %%
torch.manual_seed(0)
linear = torch.nn.Linear(64, 10)
filter_ = LoKO(linear.parameters(), p0=0.1, p0_init="constant", observation="logits").attach(linear)
for sample in stream:
    pixels, label = sample["image"].flatten(1) / 255, sample["label"]
    filter_.step(lambda pixels=pixels, label=label: Categorical(linear(pixels)).observe(label))


def winner(pixels):
    """The class with the highest score, and the standard deviation of that score."""
    scores = linear(pixels)
    best = scores.argmax()
    H = torch.autograd.grad(scores[best], list(linear.parameters()))
    return int(best), float(sum((p * h.square()).sum() for p, h in zip(filter_.variance(), H, strict=True)).sqrt())


unseen = next(iter(data.val_dataloader()))
pixels = unseen["image"].flatten(1) / 255
shuffled = torch.stack([row[torch.randperm(64)] for row in pixels])
known = [winner(row) for row in pixels]
right = sum(best == label for (best, _), label in zip(known, unseen["label"].tolist(), strict=True))
spread = {"unseen digits": [sd for _, sd in known], "shuffled pixels": [winner(row)[1] for row in shuffled]}
print(f"{right} of {len(known)} unseen digits are right")
for name, found in spread.items():
    print(f"{name}: standard deviation of the winning score {min(found):.2f} to {max(found):.2f}")

# %% [markdown]
# With the LeNet above the same quantity does not separate the two: its layers mix the pixels, and a diagonal
# covariance omits the correlations of their weights. Test it on your model before relying on it.
#
# ## Figure

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
for name, found in (("LoKO", hits), ("AdamW 1e-3", adamw_hits)):
    axes[0].plot(range(100, len(found) + 1), 100 * found.unfold(0, 100, 1).mean(1), label=name)
axes[0].set(title="predicted before learning, last 100 (%)", xlabel="digits")
for name, line in zip(names, variances.T, strict=True):
    axes[1].plot(line, label=name)
axes[1].set(title="mean variance of the parameters", xlabel="digits", yscale="log")
for name, found in spread.items():
    axes[2].hist(found, bins=20, alpha=0.7, label=name)
axes[2].set(title="standard deviation of the winning score", ylabel="images")
for axis in axes:
    axis.legend(fontsize="x-small")
figure.savefig("tour.png", dpi=110)
print("figure tour.png")

# %% [markdown]
# ![Accuracy, variances of the parameters, and standard deviation of the winning score](tour.png)
#
# Next steps: [your own data](../own_data.md), [your own backbone](../own_backbone.md), [which
# optimizer](../optimizers/index.md).
