"""SAE weights as a CPU reads them fastest, and as files are mapped."""
