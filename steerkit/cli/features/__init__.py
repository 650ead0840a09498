"""`steerkit features`: features found, shown and named."""
