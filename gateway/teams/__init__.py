"""Teams of clients: tokens, permissions and budgets."""
