"""The stand-in vendor: a deterministic origin that misbehaves on request.

Owns everything that `mock-vendor`, `demo` and the tests need of a vendor. Refuses to know the
gateway: nothing in here imports the rest of the package.
"""

from gateway.mock_vendor.behaviour import BadBehaviour, Behaviour
from gateway.mock_vendor.catalogue import Catalogue, go_json
from gateway.mock_vendor.server import MockVendor, Recorded

__all__ = ["BadBehaviour", "Behaviour", "Catalogue", "MockVendor", "Recorded", "go_json"]
