"""A run put together from its settings: what the command line and a trial's workers call."""
