"""Watching a learner: figures over a window, alarms and their delivery, rollback, and comparison."""
