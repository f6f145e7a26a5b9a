"""Databases in Kubernetes: a sidecar beside the server, driven by kubectl on a host."""
