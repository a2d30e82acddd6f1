"""Reads sources: files, object stores, databases and Hub datasets, to rows that are valid and rows that are not."""
