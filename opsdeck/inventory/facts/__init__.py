"""What is read from a host in one round trip, and its history."""
