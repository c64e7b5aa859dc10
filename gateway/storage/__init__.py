"""Stores of pages: in memory, in Redis, and both together."""
