"""The `cdn` plugin: idle servers become edges that cache a site, near its visitors."""
