"""What every Slipway service shares: settings, logging, health, errors, metrics, graceful stop."""
