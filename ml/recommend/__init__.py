"""From fitted models to lists: what a night, a fit and an evaluation have in common."""
