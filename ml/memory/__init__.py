"""Query-product memory (paper 4.2): text encoders, query vectors, and what a query's neighbours led to, as of a day."""

from ml.memory.as_of import memory_as_of, memory_for_examples
from ml.memory.encoders import TextEncoder, load_text_encoder
from ml.memory.query_memory import QueryMemory
from ml.memory.vectors import append_vectors

__all__ = [
    "QueryMemory",
    "TextEncoder",
    "append_vectors",
    "load_text_encoder",
    "memory_as_of",
    "memory_for_examples",
]
