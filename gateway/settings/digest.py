"""A name for a whole configuration, by which two can be told to be the same."""

from __future__ import annotations

import hashlib
import json

from gateway.settings.loading import Settings


def digest(settings: Settings) -> str:
    """SHA-256 (hex) over every setting in effect. Of secrets it tells that they are given, and not what they are."""
    return hashlib.sha256(json.dumps(settings.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
