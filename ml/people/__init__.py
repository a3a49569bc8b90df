"""People's data: customers who asked to be forgotten, kept out of ingestion and taken out of all that was made.

This file imports nothing: Spark's workers load `ml.people.suppression` through it.
"""
