"""Engines: the only code that touches model tensors (``equipoise.protocols.Engine``)."""
