"""`steerkit sae`: sets of SAEs trained, measured, converted and published."""
