"""The model registry on MLflow: client, aliases, promotion gate, audit log, evidence, verification, serving."""
