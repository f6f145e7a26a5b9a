"""From rows to what hosts and devices read: pure."""
