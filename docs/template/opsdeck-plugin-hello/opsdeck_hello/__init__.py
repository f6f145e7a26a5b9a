"""Leaves a greeting on each host."""
