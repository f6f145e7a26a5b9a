"""The plugin's pages: they look; what changes something is an action, with its own form."""
