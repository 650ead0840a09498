"""Records written and read: turns, approvals, executions, queries over them and tables of them."""
