"""One file a claim, named as its id: ``CLAIM = Claim(...)``."""
