"""The model registry: the promotion gate and its ledger (pure), tracking, stages and serving on MLflow."""
