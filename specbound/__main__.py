"""`python -m specbound`: the same as the console script."""

from specbound.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
