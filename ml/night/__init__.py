"""A night: who is asked, which models serve, every active customer's list, and what made it."""
