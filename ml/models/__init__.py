"""Models in MLflow: runs, registered versions and their files, which one is in use, and the way back."""
