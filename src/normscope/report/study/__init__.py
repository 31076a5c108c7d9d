"""The page of a study: tables, figures and their assembly."""
