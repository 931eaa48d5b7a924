"""What a driver does: plan, probe, watch over workers, report, and say how it ended."""
