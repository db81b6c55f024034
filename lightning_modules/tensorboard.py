"""TensorBoard's page of a run: the logger, what each scalar is, and the charts that overlay optimizers."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

LAYOUT = {
    "prequential": {
        "online score": ["Multiline", ["online/accuracy", "online/pearson", "online/f1", "online/deviance"]],
        "online loss, last 1000": ["Multiline", ["online/loss"]],
        "log loss": ["Multiline", ["online/nll", "online/predictive_nll"]],
        "calibration error": ["Multiline", ["online/ece", "online/predictive_ece"]],
    },
    "validation": {"scores": ["Multiline", ["val/(?!loss).*"]], "loss": ["Multiline", ["val/loss"]]},
    "filter": {
        "innovation": ["Multiline", ["stats/innovation_norm"]],
        "update": ["Multiline", ["stats/update_norm", "stats/gain_norm"]],
        "observation noise": ["Multiline", ["stats/noise_trace"]],
        "innovation squared, normalised": ["Margin", ["stats/nis", "stats/nis_low", "stats/nis_high"]],
        "state variance": ["Multiline", ["stats/variance_mean", "stats/variance_min"]],
    },
    "first order": {"gradient": ["Multiline", ["stats/grad_norm"]], "learning rate": ["Multiline", ["stats/lr"]]},
}
"""Charts under CUSTOM SCALARS; each overlays all runs that are selected."""

FIGURES = {
    "accuracy": "Share of samples whose most probable class is right, in percent.",
    "top5": "Share of samples whose class is among the five most probable ones, in percent.",
    "f1": "F1 score in percent: of the second class where there are two, else averaged over all decisions.",
    "exact_match": "Share of samples of which all labels are right, in percent.",
    "macro_f1": "F1 score averaged over the labels, in percent.",
    "matthews": "Matthews correlation in percent; 0 where a single class is predicted.",
    "pearson": "Pearson correlation of predictions and targets, in percent.",
    "spearman": "Spearman rank correlation of predictions and targets, in percent.",
    "mae": "Mean absolute error, in the units of the targets.",
    "rmse": "Root mean square error, in the units of the targets.",
    "deviance": "Mean Poisson deviance.",
    "loss": "Mean negative log-likelihood in nats.",
    "nll": "Log loss: mean negative log-likelihood in nats since the start.",
    "brier": "Brier score: mean squared distance of the probabilities from the one-hot label.",
    "ece": "Expected calibration error in percent, over 15 bins of the confidence.",
    "l1": "Mean absolute distance of the probabilities from the one-hot label, over the last 1,000 samples.",
    "nonfinite_samples": "Samples whose prediction or target was not finite; no other metric counts them.",
    "forgetting": "Mean drop of the accuracy on earlier segments below its best value, in percentage points.",
}
"""What is measured, by the name of the metric."""

STATS = {
    "innovation_norm": "Mean norm of the residuals of the batch, in the coordinates that the filter observes.",
    "update_norm": "Norm of the change of the trained parameters in this step.",
    "gain_norm": "Norm of the change of the parameters, divided by that of the residuals.",
    "noise_trace": "Trace of the observation noise of one sample.",
    "variance_min": "Smallest posterior variance of a parameter.",
    "variance_mean": "Mean posterior variance of the parameters.",
    "newton_iterations": "Newton steps to the mode of the posterior of the batch.",
    "newton_residual": "Largest residual of the equation of the mode after the last Newton step.",
    "nonfinite_steps": "Steps so far that were skipped because a value was not finite.",
    "exploded": "Steps so far whose residual exceeded divergence_threshold times the mean size of what is observed.",
    "cholesky_retries": "Jitters so far that a Cholesky factorisation needed.",
    "clamped": "Variances so far that were raised to the smallest one allowed.",
    "nis": "Normalised innovation squared, mean over nis_window steps. Within its interval the filter is consistent; "
    "above it is overconfident: the stream has changed, or the noise is larger than assumed.",
    "nis_low": "Lower bound of the interval of the mean NIS of a consistent filter (1 in 1,000).",
    "nis_high": "Upper bound of the interval of the mean NIS of a consistent filter (1 in 1,000).",
    "page": "Statistic of Page's test in nats: log-likelihood of a uniform predictor against the filter's.",
    "changes": "Changes of the stream detected so far, at each of which the last layer's covariance was reset.",
    "rows": "Rows of the Jacobian in this step.",
    "row_error": "Squared part of the residual in the directions that were left out.",
    "lr": "Learning rate of this step.",
    "grad_norm": "Norm of the gradient of the batch.",
    "sharpness": "Loss at the perturbed point less the loss at the parameters.",
    "kl": "Kullback-Leibler divergence of the step, by its quadratic approximation.",
    "kl_scale": "Factor by which kl_clip shortens the step; 1 where it does not.",
    "hessian_norm": "Norm of the diagonal of the curvature that scales the steps.",
    "damping": "Damping of the factors in this step.",
    "a_factor_trace": "Mean trace of the layers' input factors A.",
    "g_factor_trace": "Mean trace of the layers' output-gradient factors G.",
    "residual": "Largest relative residual of an approximate inverse, by a random probe.",
    "inverse_failures": "Inverses so far that failed, so that the previous one was used.",
    "damping_clamped": "Steps so far in which the damping reached a bound of its schedule.",
    "clipped": "Share of the entries whose step was clipped.",
}
"""Diagnostics of an optimizer's last step, by name."""

GROUPS = {
    "online/predictive_": "Every sample predicted before it is learned from (prequential), by the posterior "
    "predictive probabilities. ",
    "online/": "Every sample predicted before it is learned from (prequential). ",
    "val/": "On the validation split. ",
    "test/": "On the test split. ",
}
"""First sentence of a description, by the beginning of the scalar's name."""


def description(name: str) -> str:
    """Return what a scalar is, empty for one that is not known.

    Args:
        name: The scalar's name, such as ``online/accuracy``.
    """
    if name.startswith("stats/"):
        return STATS.get(name.removeprefix("stats/"), "")
    for prefix, sentence in GROUPS.items():
        if name.startswith(prefix):
            figure, _, segment = name.removeprefix(prefix).partition("accuracy_")
            if segment:
                return f"{sentence}Accuracy on segment {segment} of the stream, in percent."
            return sentence + FIGURES.get(figure or "accuracy", "")
    return ""


class RunLogger(TensorBoardLogger):
    """TensorBoard's logger of a run's own folder.

    It differs from Lightning's in three ways: each scalar has a description; the page that opens first begins with the
    online metrics, for the learning rate stands among the diagnostics and the number of the epoch, one point of a
    stream, is left out; and the hyper-parameters stand beside the last values of the curves, so that final results need
    no charts of one point either.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, default_hp_metric=False)
        self._described: set[str] = set()

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Write scalars, the first value of each with its description."""
        renamed = {"lr": "stats/lr"}
        metrics = {renamed.get(name, name): value for name, value in metrics.items() if name != "epoch"}
        first = {name: value for name, value in metrics.items() if name not in self._described and description(name)}
        for name, value in first.items():
            self._write_described(name, float(value), step)
        super().log_metrics({name: value for name, value in metrics.items() if name not in first}, step)

    @rank_zero_only
    def log_results(self, hyperparameters: dict[str, Any], scalars: list[str]) -> None:
        """Write hyper-parameters, shown beside the last values of curves.

        Args:
            hyperparameters: Numbers, booleans and texts by name.
            scalars: Names of the curves.
        """
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams(hyperparameters, dict.fromkeys(scalars, 0.0)):
            self.experiment.file_writer.add_summary(summary)

    def _write_described(self, name: str, value: float, step: int | None) -> None:
        """Write a value with metadata, from which TensorBoard takes the description of the curve."""
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata

        plugin = SummaryMetadata.PluginData(plugin_name="scalars")
        metadata = SummaryMetadata(plugin_data=plugin, summary_description=description(name))
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value, metadata=metadata)])
        self.experiment.file_writer.add_summary(summary, step)
        self._described.add(name)
