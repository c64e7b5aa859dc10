"""The pure part: values and functions of values. Nothing here waits, reads a clock or talks to the network."""
