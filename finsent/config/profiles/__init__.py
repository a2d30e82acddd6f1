"""Shipped profiles, one YAML file each; read through importlib.resources."""
