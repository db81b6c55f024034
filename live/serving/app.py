"""The endpoints of a service."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from ..plain import finite
from .access import Denied, Guard, Limits
from .api_page import api_page
from .batching import Batcher
from .card import card
from .journal import LogNotWritten, Operation
from .known_ids import Outcome
from .monitor import Figures, exposition
from .schemas import (
    Accepted,
    Feedback,
    Feedbacks,
    ManyPredicted,
    ManyToLearn,
    ManyToPredict,
    Predicted,
    Problem,
    ToLearn,
    ToPredict,
    form,
)
from .service import LearnerService
from .tickets import Refused

PAGE = Path(__file__).parent / "page"

PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "The token is missing or wrong."},
    413: {"model": Problem, "description": "The body is too long, or there are too many samples."},
    422: {"model": Problem, "description": "A sample or a label is none. Nothing was accepted."},
    429: {"model": Problem, "description": "Too many requests; Retry-After says when to come again."},
    503: {"model": Problem, "description": "Too much waits to be learned (with Retry-After), or learning has stopped."},
    507: {"model": Problem, "description": "The disk is full. Nothing was accepted."},
}
NEEDED = {
    "id": "must be an integer, or a text of 1 to 200 characters that is not blank",
    "y": "must be a text, a number, true or false, or a list of classes",
}
LEARNED = Query(False, description="Answer when it was learned, not as soon as it is on the disk.")

ABOUT = """\
The model predicts, and learns from labels, one sample after the other. A label that was acknowledged is on the disk: it
is learned exactly once, even if the process is killed. Predictions go on while it learns, with the parameters after the
last completed step.

Errors have one line of text in the field error. Where the service has a token, each request needs the header
"Authorization: Bearer TOKEN".
"""

Many = TypeVar("Many", bound=Sequence[Any])


def create_app(service: LearnerService, token: str | None = None, limits: Limits | None = None) -> FastAPI:
    """Return the application of a service; the service ends with it.

    Args:
        service: The service.
        token: The token that requests need; None for none.
        limits: The limits of requests.
    """
    limits = limits or Limits()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await anyio.to_thread.run_sync(service.close)

    app = FastAPI(
        title="filtune", description=ABOUT, version=_version(), docs_url=None, redoc_url=None, lifespan=lifespan,
        responses=PROBLEMS,
    )  # fmt: skip
    _add_errors(app)
    _add_learner(app, service, limits)
    _add_pages(app, service)
    known = {getattr(route, "path", "") for route in app.routes}

    def observe(path: str, status: int, seconds: float) -> None:
        service.monitor.request(path if path in known else "other", status, seconds)

    app.add_middleware(Guard, token=token, limits=limits, observe=observe)
    service.monitor.registry.register(Figures(service.status))
    return app


def _version() -> str:
    from filtune import __version__

    return __version__


def _add_learner(app: FastAPI, service: LearnerService, limits: Limits) -> None:
    threads = max(2, os.cpu_count() or 1)
    predictions_at_once, checks_at_once = (anyio.CapacityLimiter(threads) for _ in range(2))
    in_thread = anyio.to_thread.run_sync
    together = partial(in_thread, service.predictor.predict_together, limiter=predictions_at_once)
    batcher = Batcher(together, threads)

    def bounded(samples: Many) -> Many:
        if len(samples) > limits.max_batch:
            raise Denied(413, f"{len(samples)} samples are more than {limits.max_batch} in one request")
        return samples

    async def accept(operations: list[Operation], learned: bool) -> list[str]:
        written = await in_thread(service.check, operations, limiter=checks_at_once)
        ticket = service.submit(operations, written)
        outcomes: Future[list[Outcome]] = ticket.applied if learned else ticket.durable
        return [*await asyncio.wrap_future(outcomes)]

    async def predictions(samples: list[ToPredict]) -> list[Predicted]:
        xs, ids = [sample.x for sample in bounded(samples)], [sample.id for sample in samples]
        answers = await batcher.predict(xs)
        found = [Predicted(**finite(answer._asdict(), is_utf8=True)) for answer in answers]
        kept = [place for place, id in enumerate(ids) if id is not None]
        if kept:
            operations = [
                {"op": "wait", "id": ids[i], "x": xs[i], "answer": finite(answers[i].prediction, is_utf8=True)}
                for i in kept
            ]
            for place, outcome in zip(kept, await accept(operations, False), strict=True):
                found[place].outcome = outcome
        inputs = service.learner.inputs
        service.monitor.predicted(xs, inputs.modality, answers, ids, inputs.columns)
        return found

    @app.post("/predict", tags=["predict"], openapi_extra=form("x", "id"))
    async def predict(sample: ToPredict) -> Predicted:
        """Predict a sample. With an id the sample is kept for its label, on the disk, before the answer comes."""
        return (await predictions([sample]))[0]

    @app.post("/predict_many", tags=["predict"])
    async def predict_many(body: ManyToPredict) -> ManyPredicted:
        """Predict several samples, all with the parameters of one moment."""
        return ManyPredicted(predictions=await predictions(body.samples))

    @app.post("/learn", tags=["learn"], openapi_extra=form("x", "y", "id"))
    async def learn(sample: ToLearn, learned: bool = LEARNED) -> Accepted:
        """Learn from a sample and its label. It is predicted and scored before."""
        return Accepted(outcomes=await accept([_learn(sample)], learned))

    @app.post("/learn_many", tags=["learn"])
    async def learn_many(body: ManyToLearn, learned: bool = LEARNED) -> Accepted:
        """Learn from several samples, one after the other; all of them are accepted, or none."""
        return Accepted(outcomes=await accept([_learn(sample) for sample in bounded(body.samples)], learned))

    @app.post("/feedback", tags=["learn"], responses={404: {"model": Problem, "description": "No such sample waits."}})
    async def feedback(label: Feedback, learned: bool = LEARNED) -> Accepted:
        """Learn from a sample that was predicted with an id, now that its label is known."""
        outcomes = await accept([_label(label)], learned)
        if outcomes == ["unknown"]:
            raise Denied(404, "no sample waits under this id: it was never predicted, or was dropped for newer ones")
        return Accepted(outcomes=outcomes)

    @app.post("/feedback_many", tags=["learn"])
    async def feedback_many(body: Feedbacks, learned: bool = LEARNED) -> Accepted:
        """Learn from several samples that were predicted with ids; those of unknown ids are left out."""
        return Accepted(outcomes=await accept([_label(label) for label in bounded(body.labels)], learned))

    @app.post("/rollback", tags=["learn"], responses={409: {"model": Problem, "description": "No state was kept."}})
    async def rollback() -> Accepted:
        """Restore the last state that was kept, once what was accepted before is learned; it answers then."""
        outcomes = await accept([{"op": "rollback"}], True)
        if outcomes == ["rejected"]:
            raise Denied(409, "no state is kept to go back to; start the service with --keep_states")
        return Accepted(outcomes=outcomes)


def _learn(sample: ToLearn) -> Operation:
    known = {} if sample.id is None else {"id": sample.id}
    return {"op": "learn", "x": sample.x, "y": sample.y, **known}


def _label(label: Feedback) -> Operation:
    return {"op": "label", "id": label.id, "y": label.y}


def _add_pages(app: FastAPI, service: LearnerService) -> None:
    @app.get("/status", tags=["watch"])
    def status() -> JSONResponse:
        """Return what the page shows: metrics, the test for drift, and recent predictions."""
        return JSONResponse(finite(service.status(), is_utf8=True))

    @app.get("/health", tags=["watch"])
    def health() -> JSONResponse:
        """Return whether it learns: status 200, or 503 where learning has stopped; needs no token."""
        return JSONResponse({"status": "stopped" if service.failure else "ok"}, 503 if service.failure else 200)

    @app.get("/metrics", tags=["watch"], response_class=PlainTextResponse)
    def metrics() -> Response:
        """Return the metrics in the text format of Prometheus."""
        return Response(exposition(service.monitor), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/card", tags=["watch"], response_class=PlainTextResponse)
    def model_card() -> Response:
        """Return the model card of now, in Markdown."""
        return Response(card(service).encode("utf-8", "replace"), media_type="text/markdown; charset=utf-8")

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(api_page(app.openapi()))

    for name in ("/", "/page.js", "/page.css"):
        app.add_api_route(name, _file(PAGE / (name[1:] or "page.html")), include_in_schema=False)


def _file(path: Path) -> Callable[[], FileResponse]:
    def answer() -> FileResponse:
        return FileResponse(path)

    return answer


def _add_errors(app: FastAPI) -> None:
    """Answer every error with one line."""

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return _problem(400, "the body is not JSON")
        if first["loc"] == ("body",) and "json" not in request.headers.get("content-type", ""):
            return _problem(
                422, "the body is a form, or JSON, which the header Content-Type: application/json must say"
            )
        place = [str(part) for part in first["loc"] if part != "body"]
        for name, needed in NEEDED.items():
            if name in place[:-1]:  # one of the types that it might have been
                return _problem(422, f"{'.'.join(place[: place.index(name) + 1])}: {needed}")
        return _problem(422, f"{'.'.join(place)[:200] or 'body'}: {first['msg'].removeprefix('Value error, ')}")

    @app.exception_handler(ValueError)
    async def no_sample(request: Request, error: ValueError) -> JSONResponse:
        if request.method == "GET" or isinstance(error, UnicodeError):  # nothing of the client's is wrong
            raise error
        text = str(error).replace("new_classes='add' takes", "a service with --new_classes add takes")
        return _problem(422, " ".join(text.split()))

    @app.exception_handler(Denied)
    async def denied(request: Request, error: Denied) -> JSONResponse:
        return _problem(error.status, str(error), error.headers)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        later = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        return _problem(503, str(error), later)

    @app.exception_handler(LogNotWritten)
    async def unwritten(request: Request, error: LogNotWritten) -> JSONResponse:
        return _problem(507, f"the disk takes nothing more: {error}", {"Retry-After": "30"})

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return _problem(500, "an error of the service, which its own output describes; nothing was answered")

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        more = "; the endpoints are at /docs" if error.status_code in (404, 405) else ""
        return _problem(error.status_code, f"{error.detail}{more}", dict(error.headers or {}))


def _problem(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": text.encode("utf-8", "replace").decode()[:500]}, status, headers)
