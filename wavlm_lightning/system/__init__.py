"""The operating system: files and locks, processes, paths, hardware, timing, errors, progress bars, names of modules and files."""
