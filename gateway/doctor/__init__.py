"""Checks of the configured services, made with the code that serves."""
