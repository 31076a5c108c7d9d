"""The page of a diagnosis: text, figures and their assembly."""
