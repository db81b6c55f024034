"""The threads of a service: one writes the log, one learns, any number predict.

A request goes to a bounded queue. The writer takes all that wait there, writes them to the log at once and acknowledges
them; the learner takes them from the log's order, one sample after the other. Predictions are made in the threads of
their requests, on the parameters after the last completed step.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from ..pending import Waiting
from ..watching.monitor import MOST_EVENTS, Event
from ..watching.reporting import WatchReports
from .journal import LogNotWritten, Operation, Payload, payload
from .known_ids import KnownIds, Outcome
from .monitor import ServiceMonitor
from .options import change, change_of
from .predictor import ServicePredictor
from .samples import check_label, read_sample, readable
from .state import PREVIOUS, State
from .tickets import Answer, Refused, Ticket

OBSERVE_INTERVAL = 5.0
"""Seconds between two points of the curves while it learns and nobody looks."""


class LearnerService:
    """A learner with its log.

    Args:
        state: What it goes on from.
        save_interval: Operations between two snapshots: after a kill, at most about so many are learned again.
        max_backlog: Operations that may wait to be learned; beyond it requests are refused.
        skip: Numbers of operations of the log that are not learned, such as one that makes the learner diverge.
        webhook: Address to which alarms are posted; None for none.

    Raises:
        ValueError: If the log does not hold an operation to be skipped.

    Attributes:
        replayed: Operations that were in the log and not in the snapshot.
        failure: Why it learns no more; empty while it does.
    """

    def __init__(
        self,
        state: State,
        save_interval: int = 1000,
        max_backlog: int = 1000,
        skip: Collection[int] = (),
        webhook: str | None = None,
    ) -> None:
        self.state, self.learner = state, state.learner
        self.save_interval, self.max_backlog = save_interval, max_backlog
        self.failure = ""
        self.monitor = ServiceMonitor()
        self.backlog = 0
        self._saved_at, self._save_at = state.position, state.position + save_interval
        self._changed = threading.Condition()
        self._arrived: deque[Ticket] = deque()
        self._written: deque[Ticket] = deque()
        self._stopping = self._rotates = False
        self._reports: WatchReports | None = None
        self._raised: deque[tuple[int, Event]] = deque(maxlen=MOST_EVENTS)
        self._step_seconds = 0.1
        self.predictor = ServicePredictor(self.learner)
        try:
            self.replayed = self._replay(skip)
            self._change_options()
            outbox = state.folder / "webhook.jsonl"
            self._reports = WatchReports(self.learner.monitor, str(state.folder), webhook, outbox)
            for position, event in self._raised:  # by the log that was read, mostly known by their ids
                self._reports.report([event], {"operation": position})
            self._raised.clear()
        except BaseException:
            state.journal.close()
            state.lock.release()
            raise
        # at the end of the log, where the state's own ids are at what was learned
        self._ids_written = KnownIds(state.ids.most_waiting, state.ids.remembered)
        self._ids_written.load(state.ids.state())
        self.learner.newest()
        self.monitor.observe(self.learner, state.position)
        self._threads = [
            threading.Thread(target=loop, name=loop.__name__.strip("_"), daemon=True)
            for loop in (self._write_all, self._learn_all)
        ]
        for thread in self._threads:
            thread.start()

    # requests

    def predict(self, xs: Sequence[Any]) -> list[Answer]:
        """Return the predictions for samples of a request, all with the parameters of one moment.

        Raises:
            ValueError: If one is no sample.
        """
        (found,) = self.predictor.predict_together([xs])
        if isinstance(found, ValueError):
            raise found
        return found

    def status(self) -> dict[str, Any]:
        """Return what the page and Prometheus show; waits for the step under way where something was learned."""
        if self.monitor.position != self.state.position and (not self.backlog or self.monitor.age() > 0.5):
            self.monitor.observe(self.learner, self.state.position)
        state = "stopped" if self.failure else "learning" if self.backlog else "waiting"
        about = {"state": state, "failure": self.failure, "position": self.state.position, "backlog": self.backlog}
        return {**about, "snapshot_position": self._saved_at, **self.monitor.status()}

    def check(self, operations: Sequence[Operation]) -> Payload:
        """Return operations as they are written, after a check of their samples and labels.

        Raises:
            ValueError: If a sample or a label is none; names its place where there are several.
        """
        for place, operation in enumerate(operations):
            try:
                if "x" in operation:
                    self.predictor.check(operation["x"], is_learned=operation["op"] == "learn")
                if "y" in operation:
                    check_label(self.learner, operation["y"])
            except ValueError as error:
                where = f"sample {place}: " if len(operations) > 1 else ""
                raise ValueError(f"{where}{error}") from error
        return payload(operations)

    def submit(self, operations: list[Operation], written: Payload) -> Ticket:
        """Take a request into the queue.

        Args:
            operations: What is to be learned.
            written: The same from :meth:`check`.

        Raises:
            Refused: If the queue is full, or nothing more is learned.
        """
        with self._changed:
            if self.failure:
                raise Refused(self.failure, None)
            if self._stopping:
                raise Refused("the service stops", 5)
            if self.backlog and self.backlog + len(operations) > self.max_backlog:
                raise Refused(
                    f"{self.backlog} samples wait to be learned, and more than {self.max_backlog} may not",
                    max(1, round(self.backlog * self._step_seconds / 2)),
                )
            ticket = Ticket(written, operations)
            self.backlog += len(operations)
            self._arrived.append(ticket)
            self._changed.notify_all()
        return ticket

    def close(self) -> None:
        """Stop the service; what was acknowledged and not yet learned is in the log, for the next start."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        for ticket in (*self._written, *self._arrived):
            ticket.fail(Refused("the service stopped before this was learned; it is in the log", 5))
        self._save()
        if self._reports is not None:
            self._reports.close()
        self.state.journal.close()
        self.state.lock.release()

    # the writer

    def _write_all(self) -> None:
        while tickets := self._wait_for(self._arrived):
            try:
                self._write(tickets)
            except LogNotWritten as error:
                with self._changed:
                    self.backlog -= sum(len(ticket.operations) for ticket in tickets)
                self.monitor.unwritten(error)
                for ticket in tickets:
                    ticket.fail(error)
            except Exception as error:  # of whatever kind: what is not in the log must not be acknowledged
                self._stop_learning(f"the log is no longer written; start the service again: {_line(error)}", tickets)
                return

    def _write(self, tickets: list[Ticket]) -> None:
        """Write requests to the log, acknowledge them, and hand them on."""
        if self._rotates:
            self._rotates = False
            self.state.journal.rotate()
        self.state.journal.append([ticket.payload for ticket in tickets])
        for ticket in tickets:  # acknowledged before it is handed on, for the learner may end it with an error
            ticket.durable.set_result(list(map(self._ids_written.take, ticket.operations)))
        with self._changed:
            failure = self.failure
            self._written.extend([] if failure else tickets)
            self._changed.notify_all()
        for ticket in tickets if failure else ():
            ticket.fail(Refused(failure, None))

    def _wait_for(self, queue: deque[Ticket], most: int | None = None) -> list[Ticket]:
        """Return what waits in a queue, its first ``most``; nothing when the service stops."""
        with self._changed:
            while not queue and not self._stopping:
                self._changed.wait()
            # what has arrived is written before the end; what was written is learned after the next start
            if self._stopping and queue is self._written:
                return []
            return [queue.popleft() for _ in range(min(len(queue), most or len(queue)))]

    # the learner

    def _learn_all(self) -> None:
        while tickets := self._wait_for(self._written, 1):
            (ticket,) = tickets
            try:
                self._learn(ticket)
            except Exception as error:  # of whatever kind: what follows in the log must not be learned without this
                self._stop_learning(_stopped(self.state.position, error), tickets)
                return

    def _learn(self, ticket: Ticket) -> None:
        begin = time.monotonic()
        outcomes = list(map(self._apply, ticket.operations))
        seconds = (time.monotonic() - begin) / len(ticket.operations)
        self._step_seconds += 0.1 * (seconds - self._step_seconds)
        with self._changed:
            self.backlog -= len(ticket.operations)
        self.monitor.learned(seconds, len(ticket.operations))
        ticket.applied.set_result(outcomes)
        if self.monitor.age() > OBSERVE_INTERVAL:
            self.monitor.observe(self.learner, self.state.position)
        if self.state.position >= self._save_at:
            self._save()

    def _stop_learning(self, reason: str, tickets: list[Ticket]) -> None:
        """End a thread, and with it all learning; what waits for that thread gets an error.

        Where the learner ends, the writer goes on: what has arrived is written, and ended by it.
        """
        with self._changed:
            self.failure = self.failure or reason
            waiting = [*tickets, *self._written]
            self._written.clear()
            if threading.current_thread() is self._threads[0]:
                waiting += self._arrived
                self._arrived.clear()
        rank_zero_warn(self.failure)
        for each in waiting:
            each.fail(Refused(self.failure, None))

    def _apply(self, operation: Operation, is_skipped: bool = False) -> Outcome:
        """Apply the next operation of the log, or only take note of its id, and return what has become of it.

        What is refused is refused again when the log is read after a kill, for nothing but the state decides it. Its id
        counts as learned, as was acknowledged to whoever sent it again; the sample waits no longer.
        """
        outcome = self.state.ids.take(operation)
        try:
            if is_skipped:
                raise ValueError("it is skipped")
            if outcome in ("accepted", "waiting"):
                self._change(operation)
        except ValueError as error:  # such as a class beyond the most that there may be
            outcome = "rejected"
            with self.learner.lock:
                self.learner.pending.discard(operation.get("id"))
            self.monitor.rejected(error)
        self.monitor.outcome(operation["op"], outcome)
        self.state.position += 1
        if self._reports is None:
            self._raised.extend((self.state.position, event) for event in self.learner.monitor.take_events())
        else:
            self._reports.take({"operation": self.state.position})
        return outcome

    def _change(self, operation: Operation) -> None:
        learner, kind, id = self.learner, operation["op"], operation.get("id")
        if kind == "options":
            change(learner, operation)
            return
        if kind == "rollback":
            learner.rollback()
            return
        if kind == "label":
            if not learner.feedback(id, operation["y"]):  # type: ignore[arg-type]
                raise ValueError("no sample waits under its id")
            self.monitor.labelled(id, operation["y"])
        elif kind == "wait":
            sample = read_sample(learner, operation["x"])
            with learner.lock:
                learner.let_wait(operation["id"], Waiting(sample, operation["answer"], True))
        else:
            learner.learn_one(readable(learner, operation["x"]), operation["y"], id)
        if learner.watch.policy == "stop":
            self._check_finite()

    def _check_finite(self) -> None:
        """Stop at the operation that a value was not finite at, before a snapshot of it and before the learner's check.

        Of predictions that are poor, from which a learner may recover, its own checks decide.

        Raises:
            FloatingPointError: If there was one.
        """
        optimizer, recent = self.learner.optimizer, self.learner.optimizer.recent()
        if recent is None or not recent.diverged:
            self.learner.watch.check(optimizer, self.learner.steps, self.learner.model.target_state)

    # what is kept

    def _replay(self, skip: Collection[int]) -> int:
        """Learn what the log has beyond the snapshot, without what is skipped."""
        count, begin = 0, self.state.position
        for _, operations in self.state.journal.read(self.state.position):
            if self.failure:
                continue
            try:
                for operation in operations:
                    self._apply(operation, self.state.position in skip)
                    count += 1
            except Exception as error:  # as it stopped before the restart
                self.failure = _stopped(self.state.position, error)
        for number in skip:
            if number >= self.state.journal.end:
                raise ValueError(f"--skip_operation {number}: the log ends before operation {self.state.journal.end}")
            if number < begin:
                known = f"the snapshot is of {begin} operations and has it already; take {PREVIOUS} in its place"
                rank_zero_warn(f"--skip_operation {number}: {known}")
        return count

    def _change_options(self) -> None:
        """Change to the options asked for, by an operation at the end of the log."""
        operation = None if self.failure else change_of(self.learner, *self.state.asked)
        if operation is not None:
            self.state.journal.append([payload([operation])])
            self._apply(operation)

    def _save(self) -> None:
        if self.failure or self._saved_at == self.state.position:
            return
        try:
            with self.learner.lock:
                self.state.save()
        except OSError as error:  # such as a full disk; the log has everything
            self.monitor.unsaved(error)
            rank_zero_warn(f"{error}; the log is kept, and the snapshot tried again")
            self._save_at = self.state.position + self.save_interval // 2
            return
        self.state.journal.prune(self._saved_at)  # the snapshot before has what it needs to go on
        self._saved_at, self._rotates = self.state.position, True
        self._save_at = self._saved_at + self.save_interval


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _stopped(position: int, error: Exception) -> str:
    reason = _line(error)
    return f"the learner has stopped at operation {position} (--skip_operation {position} goes on without it): {reason}"
