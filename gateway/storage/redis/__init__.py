"""Everything that uses Redis."""
