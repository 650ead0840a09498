"""`steerkit audit`: records looked at, checked, exported and explained."""
