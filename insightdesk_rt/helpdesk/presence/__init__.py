"""Who is online, and how."""
