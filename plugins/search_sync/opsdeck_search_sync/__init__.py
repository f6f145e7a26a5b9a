"""Live sync of databases into Meilisearch."""
