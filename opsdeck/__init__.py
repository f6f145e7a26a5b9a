"""OpsDeck: one console for a fleet of Debian hosts, over SSH, without agents."""

__version__ = "0.1.0"
