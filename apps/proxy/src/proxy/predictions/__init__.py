"""From an input to a prediction: prepared, asked, cached, and combined from several models."""
