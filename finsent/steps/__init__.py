"""The steps of the pipeline: one module each, called by the flows and by the command line, never by one another."""
