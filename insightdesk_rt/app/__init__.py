"""The program: configuration, command line, composition, processes."""
