"""Physical backups of MariaDB, streamed to a store, kept by rule, and shown to restore."""
