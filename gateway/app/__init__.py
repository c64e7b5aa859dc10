"""Compose the gateway from its configuration, run its processes, and reload it."""
