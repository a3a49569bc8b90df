"""The paper's Table 1 for a log."""

from __future__ import annotations

import pyarrow as pa

from ml.sequences.items import item_sequences


def dataset_statistics(sequences: pa.Table) -> dict[str, float]:
    """Return users, items, interactions, average length and density as in the paper's Table 1.

    A user's sequence is the newest example: its item steps, as the click filter left them, and its target; so a user
    without an eligible row does not count, and a sequence is at most `max_steps` + 1 long. Interactions are the sum
    of the sequences' lengths, items the distinct items in them, and as in the paper
    average length = interactions / users and density = interactions / (users · items): its Luggage & Bags has
    131,647 / 10,611 = 12.41 and 131,647 / (10,611 · 61,550) = 2.02e-4.
    """
    eligible = sequences.filter(sequences["eligible"])
    everything = pa.array(["train"] * eligible.num_rows, pa.string())
    at = eligible.schema.get_field_index("temporal_split")
    data = item_sequences(eligible.set_column(at, "temporal_split", everything), "temporal")
    users, items = len(data.sequences), len(data.items)
    interactions = sum(len(sequence) for sequence in data.sequences)
    return {
        "users": float(users),
        "items": float(items),
        "interactions": float(interactions),
        "average_length": interactions / users if users else 0.0,
        "density": interactions / (users * items) if users else 0.0,
    }
