"""The parts: one module each, found by the name of its file, with ``SECONDS``, ``ALONE`` and ``run``."""
