"""Values that all packages share. Nothing here performs I/O."""
