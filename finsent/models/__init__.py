"""Base models, adapters, manifests, and texts to logits."""
