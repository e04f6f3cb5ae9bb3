"""What the back end pushes over HTTP."""
