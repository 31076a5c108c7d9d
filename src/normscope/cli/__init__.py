"""The command line: one file per command or group of commands, with shared parsing, tables and progress bars."""
