"""Deterministic simulation of several replicas, a Redis and a vendor on virtual time.

`make simulate SEEDS=0-9999` runs it; docs/architecture.md describes what it checks.
"""
