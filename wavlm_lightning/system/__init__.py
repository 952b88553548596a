"""The operating system: files, locks, processes, paths, hardware, timing, errors, progress bars, names."""
