"""Audits datasets: what training and held-out splits share, and texts that look broken."""
