"""Readers: one folder or file per kind of database, all behind `changes.Reader`."""
