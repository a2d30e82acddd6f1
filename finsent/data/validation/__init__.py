"""Checks of what was read: rows, label mappings, schema drift, held-out sources, language; and text cleaning."""
