"""Hosts out of files that people have already: each format gives rows and problems, one plan comes of them."""
