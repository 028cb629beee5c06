"""The results of a trained model: bounds on held-out data, tables and pictures."""
