"""The HTTP server: parsing, routing, and the endpoints."""
