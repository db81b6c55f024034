"""A learner behind HTTP: it predicts and learns for others, and an acknowledged label is never lost.

``filtune serve`` is :mod:`live.serving.commands`. The parts, each of which knows nothing of those after it: the log of
operations (``journal``), what is known by id (``known_ids``), the folder that holds both with the last snapshot
(``state``), the threads that write and learn (``service``), and the endpoints (``app``) behind the checks of
``access``.
"""
