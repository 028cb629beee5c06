"""What a trained model is worth: bounds on held-out data, tables of them, and pictures."""
