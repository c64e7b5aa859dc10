"""Several processes that serve together: the supervisor, and the messages between its workers."""
