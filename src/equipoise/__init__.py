"""Equipoise: post-train language models from any signal, under a metered budget."""

__version__ = "0.1.0"
