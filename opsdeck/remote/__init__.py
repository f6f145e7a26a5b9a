"""Idempotent operations on a host: each can look, say what it would change, and change it.

Every operation has a pure builder (parameters → a command), a pure parser (bytes → a frozen dataclass) and a thin
part that runs the one and reads the other. Data travels as arguments or on standard input, never inside shell text.
"""
