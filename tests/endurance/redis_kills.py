"""Kill ``filtune learn`` with SIGKILL while a stream goes through Redis, and compare with a run that was not.

``python -m tests.endurance.redis_kills --samples 100000 --kills 20 --output redis_kills.json``: a learner reads a
stream of a redis-server and writes another one. It is killed at random moments and started again each time. At the end
its state must be that of the uninterrupted learner, bit for bit, and its answers the same, one per sample.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.endurance.chaos import first_difference
from tests.live.redis_runs import (
    RedisProcess,
    answers,
    end_of,
    entries,
    feed,
    forked,
    kill_process,
    learn,
    running_server,
    state_of,
    waited,
)

PATIENCE = 7200
"""Seconds after which a learner that makes no progress is a failure."""


def start(server: RedisProcess, folder: Path, name: str, interval: int) -> int:
    """Start a learner with a group, a state and an output of this name."""
    options = ["--input", server.url("samples", group=name), "--output", server.url(f"answers-{name}")]
    return forked(lambda: learn(folder, name, *options, interval=interval), folder / f"{name}.log")


def killed_run(server: RedisProcess, folder: Path, samples: int, kills: int, interval: int, seed: int) -> list[int]:
    """Run a learner that is killed so often; return after how many answers each kill came."""
    draw = random.Random(seed)
    moments, found = sorted(draw.sample(range(1, samples), kills)), []
    child = start(server, folder, "killed", interval)
    for moment in moments:
        assert waited(lambda moment=moment: server.client.xlen("answers-killed") >= moment, PATIENCE)
        time.sleep(draw.random() * 0.02)
        kill_process(child)
        found.append(server.client.xlen("answers-killed"))
        child = start(server, folder, "killed", interval)
    assert end_of(child) == 0, (folder / "killed.log").read_text()
    return found


def compare(samples: int, kills: int, labelled: float, interval: int = 200, seed: int = 0) -> dict[str, Any]:
    """Return what an uninterrupted learner and one that was killed have in common."""
    begin = time.monotonic()
    with running_server() as server, tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        feed(server, "samples", entries(samples, labelled, seed))
        whole = start(server, folder, "whole", interval)
        moments = killed_run(server, folder, samples, kills, interval, seed)
        assert end_of(whole) == 0, (folder / "whole.log").read_text()
        ids = [id for id, _ in server.client.xrange("samples")]
        whole_answers, killed_answers = answers(server, "answers-whole"), answers(server, "answers-killed")
        state = state_of(folder / "whole.ckpt")
        return {
            "samples": samples,
            "learned": state["stream"]["counts"]["learned"],
            "kills_after": moments,
            "state_difference": first_difference(state, state_of(folder / "killed.ckpt")),
            "one_answer_per_sample": [id for id, _ in killed_answers] == ids,
            "answers_equal": killed_answers == whole_answers,
            "pending": [each["pending"] for each in server.client.xinfo_groups("samples")],
            "seconds": round(time.monotonic() - begin, 1),
        }


def main() -> None:
    """Print and write the comparison; the exit status says whether all is equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100_000, help="entries of the stream (default 100000)")
    parser.add_argument("--kills", type=int, default=20, help="kills at random moments (default 20)")
    parser.add_argument(
        "--labelled", type=float, default=1.0, help="fraction with the label beside it, and as many get it later"
    )
    parser.add_argument("--output", type=Path, default=Path("build/redis_kills.json"), help="file of the figures")
    options = parser.parse_args()
    found = compare(options.samples, options.kills, options.labelled)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))
    same = found["state_difference"] is None and found["one_answer_per_sample"] and found["answers_equal"]
    raise SystemExit(0 if same else 1)


if __name__ == "__main__":
    main()
