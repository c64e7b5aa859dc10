"""The stand-in vendor: a deterministic origin that misbehaves on request. It knows nothing of the gateway."""
