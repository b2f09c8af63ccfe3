"""The loop that runs a recipe."""
