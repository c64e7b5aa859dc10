"""Where entries are kept: in the process, in Redis, or in both."""
