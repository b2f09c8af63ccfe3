"""Running a recipe: the loop, the preflight, and the job that puts a run together from its settings."""
