"""People's data: customers who asked to be forgotten, kept out of ingestion and taken out of all that was made."""

from ml.people.forgetting import Forgotten, forget
from ml.people.scrub import Scrub
from ml.people.suppression import Suppression

__all__ = ["Forgotten", "Scrub", "Suppression", "forget"]
