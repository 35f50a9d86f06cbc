"""`python -m packlight`, and `torchrun -m packlight` for several processes."""

from packlight.cli import main

if __name__ == "__main__":
    main()
