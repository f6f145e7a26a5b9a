"""The console: pages over the rooms of the core."""
