"""What is done to the logits of a decoding step before a token is drawn (``types.Adjust``)."""

from equipoise.parts.decoders.descent import descend_entropy
from equipoise.parts.decoders.guidance import guided, soft_value

__all__ = ["descend_entropy", "guided", "soft_value"]
