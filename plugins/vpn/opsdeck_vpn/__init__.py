"""The office network as a SOCKS port beside a rule proxy."""
