"""Task families, one a file; the literal dict `tasks.TASKS` names them."""
