"""The parts: a module each, found by its file's name, with ``SECONDS``, ``ALONE``, ``SMOKE`` and ``run_NAME``."""
