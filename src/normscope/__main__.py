"""``python -m normscope``, where the script is not on the path."""

from normscope.cli.main import main

main()
