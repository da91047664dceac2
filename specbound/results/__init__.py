"""How results leave a command: rows, tables, files that appear whole or not at all. Measures nothing."""
