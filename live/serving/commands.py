"""``filtune serve``: options are parsed before torch is imported."""

from __future__ import annotations

import argparse
import socket
from importlib.util import find_spec
from pathlib import Path

from filtune.lightning_modules.trust import SWITCH

from ..watching.options import add_options, monitor_options
from ..watching.webhook import check_webhook

NEEDED = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")
"""Packages of the extra ``serve``."""

EPILOG = """\
What it learns is kept in --state_dir: a snapshot and a log. A label that was acknowledged is learned exactly once, even
if the process is killed; the same command goes on where it was. Another command may not use the folder meanwhile.

  filtune serve --ckpt_path RUN
  curl localhost:8000/predict -H 'Content-Type: application/json' -d '{"x": "a fine film", "id": "a1"}'
  curl localhost:8000/feedback -H 'Content-Type: application/json' -d '{"id": "a1", "y": "pos"}'
"""


def serve_parser() -> argparse.ArgumentParser:
    """Return the parser of ``filtune serve``."""
    parser = argparse.ArgumentParser(
        prog="filtune serve",
        description="Serve a run's model by HTTP: it predicts, and learns from the labels that come.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--ckpt_path", type=Path, required=True, help="a run's folder for its last checkpoint, or a checkpoint")
    add("--state_dir", type=Path, help="folder of what it learns (default RUN/serving); one that is there goes on")
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1); others need a token")
    add("--port", type=int, default=8000, help="port (default 8000); 0 takes a free one")
    add(
        "--token_file",
        type=Path,
        help="file with the token that requests need; or set FILTUNE_TOKEN. It is no option, for others can read those",
    )
    add("--new_classes", choices=("refuse", "add"), help="a label that is no class (default as it was, or refuse)")
    add("--max_pending", type=int, help="most samples that wait for labels (default as it was, or 10000)")
    add("--max_backlog", type=int, default=1000, help="most samples that wait to be learned (default 1000)")
    add("--max_body", type=int, default=8 << 20, help="most bytes of a request (default 8 MiB)")
    add("--max_batch", type=int, default=256, help="most samples of a request (default 256)")
    add("--max_rate", type=float, default=1000, help="most requests a second of one address (default 1000; 0: any)")
    add("--max_connections", type=int, default=200, help="most connections at a time (default 200)")
    add("--save_interval", type=int, default=1000, help="samples between two snapshots (default 1000)")
    add("--skip_operation", type=int, action="append", default=[], metavar="N",
        help="do not learn operation N of the log, at which learning had stopped; may be repeated")  # fmt: skip
    add_options(parser)
    add("--device", default="cpu", help="where the model is (default cpu)")
    add(
        SWITCH,
        action="append",
        default=[],
        metavar="CLASS",
        dest="own",
        help="class path of a class of your own that the run was trained with; may be repeated",
    )
    return parser


def main(args: list[str]) -> None:
    """Run ``filtune serve``.

    Raises:
        ValueError: If an option is wrong.
        ImportError: If a package is missing.
    """
    options = serve_parser().parse_args(args)
    for name in ("port", "max_backlog", "max_body", "max_batch", "max_connections", "save_interval"):
        if getattr(options, name) < (name != "port"):
            raise ValueError(f"--{name}: must be {'0 or more' if name == 'port' else 'positive'}")
    if min(options.skip_operation, default=0) < 0:
        raise ValueError("--skip_operation: must be the number of an operation, 0 or more")
    if options.port > 65535:
        raise ValueError("--port: must be at most 65535")
    if not 0 <= options.max_rate < float("inf"):
        raise ValueError("--max_rate: must be a number of requests a second, or 0 for no limit")
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ImportError(f"filtune serve needs {missing[0]}; pip install 'filtune[serve]'")
    from .access import check_exposure, read_token

    if options.webhook:
        check_webhook(options.webhook)
    token = read_token(options.token_file)
    check_exposure(options.host, token)
    with _listening(options.host, options.port) as listening:  # a port in use is found before the model is read
        _serve(options, token, listening)


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise ValueError(f"--host {host} --port {port}: cannot listen there ({error}); name another --port") from error


def _serve(options: argparse.Namespace, token: str | None, listening: socket.socket) -> None:
    import prometheus_client
    import uvicorn
    from filtune.lightning_modules.launch import quiet

    from .access import Limits
    from .app import create_app
    from .service import LearnerService
    from .state import open_state

    quiet()
    prometheus_client.disable_created_metrics()
    given = {"new_classes": options.new_classes, "max_pending": options.max_pending, "device": options.device}
    given["monitor"] = monitor_options(options)
    state = open_state(options.ckpt_path, options.state_dir, tuple(options.own), **given)
    begun = f"begins in {state.folder}" if state.is_new else f"goes on in {state.folder} after {state.position} samples"
    service = LearnerService(state, options.save_interval, options.max_backlog, options.skip_operation, options.webhook)
    replayed = f" and {service.replayed} of its log" if service.replayed else ""
    limits = Limits(options.max_body, options.max_rate, options.max_batch)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"filtune: {begun}{replayed}; serving on http://{shown}:{port} (endpoints: /docs), Ctrl+C ends", flush=True)
    config = uvicorn.Config(
        create_app(service, token, limits), log_level="warning", access_log=False, server_header=False,
        proxy_headers=False, limit_concurrency=options.max_connections, timeout_keep_alive=10,
        timeout_graceful_shutdown=5, lifespan="on", ws="none",
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listening])
