"""The ledger of a search as one HTML page."""
