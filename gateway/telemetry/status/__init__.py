"""The figures of the status page."""
