"""The admin console: its files and its sessions."""
