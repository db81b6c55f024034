# %% [markdown]
# # A tour on handwritten digits
#
# A filter learns digits one at a time: first in a loop of its own, then from the command line beside AdamW. Then what
# it knows of its own parameters, how it can come to know too much, and what it makes of an input unlike any it has
# seen.
#
# Run `python docs/tour/tour.py`, or its cells in an editor. It takes half a minute on one core, needs no network,
# prints what it finds and leaves `tour.png`.

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from filtune.datamodules import DigitsDataModule
from filtune.lightning_modules.backbones import BackboneConfig, build_backbone
from filtune.optimizers import AdamW, Categorical, LoKO

from filtune.cli import main

torch.manual_seed(0)
data = DigitsDataModule(max_samples=400)
data.setup()
stream = list(data.train_dataloader())
print(f"a stream of {len(stream)} digits, {tuple(stream[0]['image'].shape)} each, {data.task.outputs} classes")

# %% [markdown]
# ## A loop of one's own
#
# `step` takes a closure, as torch's LBFGS does. The closure returns an observation: the likelihood of the outputs,
# bound to the target. What comes back was observed before the update, so its mean is an honest prediction.
#
# LoKO observes logits here (`loko_logits`), which is what learns fastest from scratch.


# %%
def learn(make, samples):
    """Learn from a stream; returns the model, the optimizer, the hits, and the mean variances at every step."""
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
    print(f"{name}: {100 * found.mean():.1f} % predicted before being learnt, {found[-100:].sum():.0f} of the last 100")

# %% [markdown]
# ## The same from the command line
#
# `filtune fit` adds the trainer, the log, checkpoints and the comparison. Its arguments are those of a shell.

# %%
with TemporaryDirectory() as folder:
    line = f"fit --config quickstart --data.max_samples 200 --trainer.enable_progress_bar false --run.root {folder}"
    main(line.split())
    for config in sorted(Path(folder).rglob("config.yaml")):
        left = ", ".join(sorted(path.name for path in config.parent.iterdir()))
        print(f"{config.parent.relative_to(folder)}: {left}")

# %% [markdown]
# ## What the filter knows of its parameters
#
# Each parameter has a variance. It started between 0 and 0.2, 0.1 on average, and falls as samples say something
# about the parameter: soonest where few parameters explain much, as a bias does.

# %%
names = [name.removeprefix("model.") for name, _ in model.named_parameters()]
for name, before, after in zip(names, variances[0], variances[-1], strict=True):
    print(f"{name:16} mean variance {before:.4f} after the first digit, {after:.4f} after {len(variances)}")

# %% [markdown]
# ## Saturation, and the way out
#
# Observing probabilities with an estimated noise, as the paper does, a filter that sees one label for long becomes
# certain: residual, Jacobian and noise go to zero together. A label that contradicts then moves nothing. Softmax
# noise is the cure.


# %%
def contradict(noise, repetitions=500, most=100):
    """Show one digit with one label for long, then with another; returns the steps until the prediction turns."""
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


turned = {noise: contradict(noise) for noise in ("ema-2", "softmax")}
for noise, steps in turned.items():
    print(f"{noise}: " + (f"turned after {steps} contradictions" if steps else "did not turn in 100 contradictions"))

# %% [markdown]
# ## A prediction with its uncertainty
#
# To first order the outputs have the covariance HPH', with H their Jacobian. So every score has a standard deviation.
# A linear model shows what it is worth: it is small for digits the model has not seen, and large where their pixels
# are shuffled, for then pixels are lit that no digit lights, and of their weights the filter has learnt nothing.

# %%
torch.manual_seed(0)
linear = torch.nn.Linear(64, 10)
knowing = LoKO(linear.parameters(), p0=0.1, p0_init="constant", observation="logits").attach(linear)
for sample in stream:
    pixels, label = sample["image"].flatten(1) / 255, sample["label"]
    knowing.step(lambda pixels=pixels, label=label: Categorical(linear(pixels)).observe(label))


def winner(pixels):
    """The class with the highest score, and the standard deviation of that score."""
    scores = linear(pixels)
    best = scores.argmax()
    H = torch.autograd.grad(scores[best], list(linear.parameters()))
    return int(best), float(sum((p * h.square()).sum() for p, h in zip(knowing.variance(), H, strict=True)).sqrt())


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
# With the LeNet above the same quantity tells nothing of the kind: its layers mix the pixels, and a diagonal
# covariance leaves out how their weights depend on each other. Try it before relying on it.
#
# ## All in one picture

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
for name, found in (("LoKO", hits), ("AdamW 1e-3", adamw_hits)):
    axes[0].plot(range(100, len(found) + 1), 100 * found.unfold(0, 100, 1).mean(1), label=name)
axes[0].set(title="predicted before being learnt, last 100 (%)", xlabel="digits")
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
# ![what the tour finds](tour.png)
#
# Next: [your own data](../own_data.md), [your own backbone](../own_backbone.md), [which
# optimizer](../optimizers/index.md).
