"""Reports of evaluations and data versions, and the model card: templates, plots and the sentences that they share."""
