"""Answer a request whose bytes were answered before without parsing it again."""
