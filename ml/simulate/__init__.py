"""A believable simulated shop: items, customers and an interaction log without leaks, in the raw input's shape."""

from ml.simulate.log import simulate_shop

__all__ = ["simulate_shop"]
