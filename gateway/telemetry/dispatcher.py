"""Pass each event to the sinks that subscribed to its type, since several events come with every request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# What is to be done with a fact, by its class.
Handlers = Mapping[type, Callable[[Any], None]]


class EventDispatcher:
    """Tells facts to whoever subscribed to their kind, in that order."""

    def __init__(self) -> None:
        self._handlers: dict[type, tuple[Callable[[Any], None], ...]] = {}

    def subscribe(self, handlers: Handlers) -> None:
        """Tell these, too."""
        for kind, handler in handlers.items():
            self._handlers[kind] = (*self._handlers.get(kind, ()), handler)

    def emit(self, fact: NamedTuple) -> None:
        """Tell a fact."""
        for handler in self._handlers.get(type(fact), ()):
            handler(fact)
