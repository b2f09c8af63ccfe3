"""What scores a response."""

from equipoise.parts.signals.verifier import judge, verified

__all__ = ["judge", "verified"]
