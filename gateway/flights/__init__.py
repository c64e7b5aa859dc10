"""One fetch per page at a time, whoever asks for it."""
