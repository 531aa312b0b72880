"""The commands of the command line, a file a subject. Each adds its commands to the parser, and imports late."""
