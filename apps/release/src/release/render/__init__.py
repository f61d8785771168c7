"""Charts and values to manifests, and what two commits change in them."""
