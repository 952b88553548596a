"""The machine behind each verb of the command line, callable from Python."""
