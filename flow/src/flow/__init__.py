"""The five stages on one machine: image, values, render, sync, route."""
