"""Fits from warehouse tables: what each model learns from, and what it must pass before it may serve."""
