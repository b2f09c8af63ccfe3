"""What a run leaves behind: its directory, rollouts, checkpoints and trackers."""
