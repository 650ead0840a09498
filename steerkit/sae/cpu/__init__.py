"""SAE weights as a CPU reads them fastest, and as files are mapped."""

from steerkit.sae.cpu import onednn

__all__ = ["onednn"]
