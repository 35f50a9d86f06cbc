"""The search: budgets, candidate forms, and the result with its verdict."""
