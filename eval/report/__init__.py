"""The report: runs side by side. It reads what analyses declare, and nothing imports it but its command."""
