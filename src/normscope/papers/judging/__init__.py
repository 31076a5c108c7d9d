"""From a published cell and our runs to a verdict."""
