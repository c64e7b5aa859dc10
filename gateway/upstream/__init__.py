"""Requests to the vendor, and when they may be sent."""
