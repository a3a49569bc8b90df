-- Two databases: Dagster and MLflow each keep a table alembic_version of their own.
CREATE DATABASE dagster;
CREATE DATABASE mlflow;
