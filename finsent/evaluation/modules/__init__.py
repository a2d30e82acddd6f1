"""Metric modules of our own for Hugging Face `evaluate`: classes, no download, no module cache.

Importing one imports `evaluate`, which takes seconds: import them inside the function that needs them.
"""
