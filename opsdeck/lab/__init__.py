"""Hosts to play with and to test against: in this process, behind one real sshd, or as a fleet of real systems.

Nothing here is loaded by a running console unless it is asked for hosts of the lab.
"""
