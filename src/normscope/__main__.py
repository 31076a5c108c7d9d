"""``python -m normscope``, where the script is not on the path."""

from normscope.cli import main

main()
