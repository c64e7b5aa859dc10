"""Metrics and logs, both fed with events."""
