"""Floor 4: what admins rule, on all nodes: who may not come in, what everybody is told, how much of what is allowed."""
