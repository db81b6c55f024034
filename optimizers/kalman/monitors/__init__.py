"""Monitors of a filter: what is watched beside the update, one file each."""
