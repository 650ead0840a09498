"""What records say: turns, approvals, executions, queries over them and tables of them."""
