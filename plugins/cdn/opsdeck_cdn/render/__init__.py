"""From the model to the engines' own configuration: pure functions, one file per language."""
