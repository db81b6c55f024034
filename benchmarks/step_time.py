"""Time and memory of one step of each optimizer on one model, against AdamW and against the floor.

How they are compared is described in :mod:`benchmarks.timing`, what the floor is in :mod:`benchmarks.methods`.

    python -m benchmarks.step_time --model minilm --outputs 2 --output docs/results/step_time.json
"""

from __future__ import annotations

from functools import partial

from benchmarks.cost import check_methods, print_points
from benchmarks.methods import OPTIMIZERS
from benchmarks.models import MODELS
from benchmarks.timing import Point, measure_points, parser_of

DEFAULT = ["adamw", "adagrad", "sgd", "filtune", "loko", "loko-logits", "r-kalman", "low-rank"]


def main(args: list[str] | None = None) -> None:
    parser = parser_of(__doc__, seconds=600.0)
    parser.add_argument("--model", choices=MODELS, default="lenet5")
    parser.add_argument("--outputs", type=int, default=10, help="number of classes, m")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=DEFAULT)
    parser.add_argument("--weights", help="folder with real weights (default: random)")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--length", type=int, default=24, help="tokens of a text")
    options = parser.parse_args(args)
    check_methods(options.optimizers, options, parser, "--optimizers")
    weights = "real" if options.weights else "random"
    name = f"{options.model}, {weights} weights"
    build = partial(MODELS[options.model], options.outputs, options.weights, options.length)
    point = Point(name, build, options.outputs, options.optimizers, options.batch_size, ordinary=True)
    print_points(measure_points([point], options))


if __name__ == "__main__":
    main()
