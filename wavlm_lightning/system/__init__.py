"""The operating system and the command line: whatever every package needs and is not about speech.

`files` (atomic writes, locks), `paths`, `worker_pool` (processes), `hardware`, `device`, `timing`, `peak_memory`, `errors`,
`progress`; `arguments`, `plugins` and `name_hints` for options and class paths. Imports nothing of ours. Tests: `tests/system`.
"""
