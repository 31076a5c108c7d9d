"""Models of other libraries, built small and tried with every instrument; ``./run strangers --help`` says more."""
