"""The pages, one file for each noun of the navigation."""
